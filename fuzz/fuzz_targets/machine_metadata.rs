#![no_main]
//! See `portdistrict::fuzzing::machine_metadata`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::machine_metadata(data));
