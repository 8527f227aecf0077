#![no_main]
//! See `portdistrict::fuzzing::snp_report`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::snp_report(data));
