#![no_main]
//! See `portdistrict::fuzzing::cbor_map`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::cbor_map(data));
