#![no_main]
//! See `portdistrict::fuzzing::base45`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::base45(data));
