//! How fast verification is. Run it alone: `cargo test --release timing -- --ignored --nocapture --test-threads=1`.

use crate::attest::snp::synthetic;
use crate::attest::snp::{Certificates, Chain, Endorsement, Product, Roots};
use std::time::Instant;

fn per_second(name: &str, mut work: impl FnMut()) -> f64 {
    let (start, rounds) = (Instant::now(), 1000);
    (0..rounds).for_each(|_| work());
    let rate = f64::from(rounds) / start.elapsed().as_secs_f64();
    println!("{name}: {rate:.0} per second");
    rate
}

#[test]
#[ignore = "measures time, which means something only in a release build on a quiet machine"]
fn verification_is_fast_enough() {
    let product = Product::Milan;
    let report = synthetic::signed_report(product, Endorsement::Vcek, 3);
    let files = [synthetic::issuer_der(product, Endorsement::Vcek), synthetic::leaf_der(product, Endorsement::Vcek)];
    let roots = synthetic::roots(product);
    let chain = Chain::verify(&synthetic::certificates(product, Endorsement::Vcek), &roots, None, None).unwrap();
    let kept = per_second("with a chain that was kept", || drop(chain.check(&report).unwrap()));
    let whole = per_second("from the bytes of certificates (RSA-2048)", || {
        let certificates = Certificates::from_files(files.iter().map(Vec::as_slice)).unwrap();
        drop(Chain::verify(&certificates, &roots, None, None).unwrap().check(&report).unwrap());
    });
    let vcek = super::sample::milan_vcek();
    let amd = Roots::amd().unwrap();
    let real = per_second("AMD's sample from the bytes of its VCEK (RSA-4096)", || {
        let certificates = Certificates::from_files([vcek]).unwrap();
        drop(Chain::verify(&certificates, &amd, None, None).unwrap().check(super::sample::milan_report()).unwrap());
    });
    assert!(kept >= 1000.0 && whole >= 250.0 && real >= 250.0);
}
