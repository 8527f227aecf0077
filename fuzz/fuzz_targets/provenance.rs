#![no_main]
//! See `portdistrict::fuzzing::provenance`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::provenance(data));
