#![no_main]
//! See `portdistrict::fuzzing::session_messages`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::session_messages(data));
