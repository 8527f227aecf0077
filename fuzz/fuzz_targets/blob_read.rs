#![no_main]
//! See `portdistrict::fuzzing::blob_read`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::blob_read(data));
