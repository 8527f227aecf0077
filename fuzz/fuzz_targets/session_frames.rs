#![no_main]
//! See `portdistrict::fuzzing::session_frames`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::session_frames(data));
