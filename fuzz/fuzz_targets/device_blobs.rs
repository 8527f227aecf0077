#![no_main]
//! See `portdistrict::fuzzing::device_blobs`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::device_blobs(data));
