#![no_main]
//! See `portdistrict::fuzzing::image_manifest`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::image_manifest(data));
