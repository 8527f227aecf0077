#![no_main]
//! See `portdistrict::fuzzing::handshake_payloads`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::handshake_payloads(data));
