#![no_main]
//! See `portdistrict::fuzzing::attest_policy`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::attest_policy(data));
