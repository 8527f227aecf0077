#![no_main]
//! See `portdistrict::fuzzing::invite_blob`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::invite_blob(data));
