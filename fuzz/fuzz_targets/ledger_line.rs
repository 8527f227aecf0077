#![no_main]
//! See `portdistrict::fuzzing::ledger_line`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::ledger_line(data));
