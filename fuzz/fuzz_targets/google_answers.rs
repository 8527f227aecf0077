#![no_main]
//! See `portdistrict::fuzzing::google_answers`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::google_answers(data));
