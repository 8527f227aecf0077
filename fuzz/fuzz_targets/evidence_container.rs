#![no_main]
//! See `portdistrict::fuzzing::evidence_container`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::evidence_container(data));
