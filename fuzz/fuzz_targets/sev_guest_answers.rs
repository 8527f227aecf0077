#![no_main]
//! See `portdistrict::fuzzing::sev_guest_answers`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::sev_guest_answers(data));
