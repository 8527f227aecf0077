//! The roots that reports are led to: AMD's, pinned in this program, or others that were given, never mixed up.

use super::tables::Role;
use super::{Product, mismatch};
use crate::attest::x509::Certificate;
use crate::attest::{Fault, Reason};
use std::sync::LazyLock;

/// AMD's certificates as its key service gives them, see README.md beside them. Tests compare their fingerprints.
///
/// The ASVKs are not among them: an ASVK comes with the evidence, and counts if a pinned ARK signed it.
pub(super) const AMD: [&[u8]; 6] = [
    include_bytes!("roots/ark-milan.der"),
    include_bytes!("roots/ask-milan.der"),
    include_bytes!("roots/ark-genoa.der"),
    include_bytes!("roots/ask-genoa.der"),
    include_bytes!("roots/ark-turin.der"),
    include_bytes!("roots/ask-turin.der"),
];

static PINNED: LazyLock<Result<Roots, Fault>> = LazyLock::new(|| {
    let certificates = AMD.into_iter().map(Certificate::from_der).collect::<Result<_, Fault>>();
    certificates.and_then(|certificates| Roots::new(Kind::Amd, certificates))
});

/// Which root a chain ended in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Root {
    /// AMD's own, pinned in this program, of this product line.
    Amd(Product),
    /// One that was given, whatever it calls itself: it proves nothing about AMD.
    Given,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Amd,
    Given,
}

/// The root certificates that are trusted, and intermediates known beforehand, which still must be signed by a root.
#[derive(Clone, Debug)]
pub struct Roots {
    kind: Kind,
    entries: Vec<(Role, Certificate)>,
}

impl Roots {
    /// AMD's roots of all product lines, with its ASKs. It fails only if this program was built wrongly.
    pub fn amd() -> Result<Roots, Fault> {
        PINNED.clone().map_err(|fault| Fault::new(Reason::VerifierUnavailable, format!("the pinned roots: {}", fault.sentence)))
    }

    /// Roots that were passed explicitly, as for tests: self-signed, named "ARK-" and a product line, at least one.
    pub fn given(certificates: Vec<Certificate>) -> Result<Roots, Fault> {
        let roots = Roots::new(Kind::Given, certificates)?;
        if roots.entries.is_empty() {
            return Err(Fault::new(Reason::CertificateMissing, "no root certificate was given, wanted at least one"));
        }
        for (role, certificate) in &roots.entries {
            if !matches!(role, Role::Ark(_)) {
                return Err(mismatch(format!("{} was given as a root, but it is the {role}", certificate.label())));
            }
            certificate.signed_by(certificate)?;
        }
        Ok(roots)
    }

    fn new(kind: Kind, certificates: Vec<Certificate>) -> Result<Roots, Fault> {
        let with_role = |certificate: Certificate| Role::of(&certificate).map(|role| (role, certificate));
        let entries = certificates.into_iter().map(with_role).collect::<Result<_, Fault>>()?;
        Ok(Roots { kind, entries })
    }

    /// The certificates with a role.
    pub(super) fn with_role(&self, wanted: Role) -> impl Iterator<Item = &Certificate> {
        self.entries.iter().filter(move |(role, _)| *role == wanted).map(|(_, certificate)| certificate)
    }

    /// What it means that a chain ended in the root of this product line.
    pub(super) fn meaning(&self, product: Product) -> Root {
        match self.kind {
            Kind::Amd => Root::Amd(product),
            Kind::Given => Root::Given,
        }
    }
}
