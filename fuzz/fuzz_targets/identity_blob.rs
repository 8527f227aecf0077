#![no_main]
//! See `portdistrict::fuzzing::identity_blob`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::identity_blob(data));
