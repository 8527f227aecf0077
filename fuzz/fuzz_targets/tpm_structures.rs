#![no_main]
//! See `portdistrict::fuzzing::tpm_structures`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::tpm_structures(data));
