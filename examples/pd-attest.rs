//! Measures verification on one core: SEV-SNP reports beside the `sev` crate, and a saved TPM quote with its event log.
//!
//! `pd-attest REPORT VCEK CHAIN [SAVED]` prints one JSON object of calls a second and of microseconds. REPORT is hexadecimal, VCEK DER,
//! CHAIN PEM, SAVED a folder of `machine attest --save`.

use portdistrict::attest::snp::{Certificates, Chain, Roots};
use portdistrict::machine::attest::{Demand, Files, attest_files};
use sev::certs::snp::{Certificate, Chain as SevChain, Verifiable, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

/// Each figure is taken over so long.
const LONG: Duration = Duration::from_secs(3);

/// Calls a second.
fn rate(mut call: impl FnMut()) -> f64 {
    let (begun, mut calls) = (Instant::now(), 0u32);
    while begun.elapsed() < LONG {
        call();
        calls += 1;
    }
    f64::from(calls) / begun.elapsed().as_secs_f64()
}

#[expect(clippy::print_stdout, reason = "the result of a measurement")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [report, vcek, chain, saved @ ..] = words.as_slice() else { return Err("pd-attest REPORT VCEK CHAIN [SAVED]".into()) };
    let text: String = std::fs::read_to_string(report)?.split_whitespace().collect();
    let report = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes())?;
    let (vcek, chain) = (std::fs::read(vcek)?, std::fs::read(chain)?);

    let roots = Roots::amd()?;
    let whole = || {
        let certificates = Certificates::from_files([vcek.as_slice(), chain.as_slice()])?;
        Chain::verify(&certificates, &roots, None, None)
    };
    let cached = whole()?;
    let ours_cached = rate(|| drop(black_box(cached.check(&report))));
    let ours = rate(|| drop(black_box(whole().and_then(|chain| chain.check(&report)))));

    let pem: Vec<&str> = std::str::from_utf8(&chain)?.split_inclusive("-----END CERTIFICATE-----").collect();
    let theirs = || -> Result<(), Box<dyn std::error::Error>> {
        let ca = ca::Chain { ask: Certificate::from_pem(pem[0].trim().as_bytes())?, ark: Certificate::from_pem(pem[1].trim().as_bytes())? };
        let chain = SevChain { ca, vek: Certificate::from_der(&vcek)? };
        let parsed = AttestationReport::from_bytes(report.as_slice())?;
        (&chain, &parsed).verify()?;
        Ok(())
    };
    theirs()?;
    let sev = rate(|| drop(black_box(theirs())));

    let quote = saved.first().map(|folder| {
        let files = Files::Saved(Path::new(folder).to_owned());
        1e6 / rate(|| drop(black_box(attest_files(&files, &Demand::default()))))
    });
    println!("{}", serde_json::json!({"snp_cached": ours_cached, "snp": ours, "snp_sev": sev, "tpm_us": quote}));
    Ok(())
}
