#![no_main]
//! See `portdistrict::fuzzing::server_reply`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::server_reply(data));
