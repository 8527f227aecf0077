#![no_main]
//! See `portdistrict::fuzzing::hetzner_answers`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::hetzner_answers(data));
