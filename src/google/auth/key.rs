//! A service account's key, which signs for itself (RFC 7523).

use crate::error::{Code, Error, Result};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

/// For how long a token is asked for, in seconds: the longest that Google allows.
const LIFETIME: u64 = 3600;

/// The key of a service account.
pub(super) struct Key {
    pair: RsaKeyPair,
    id: Option<String>,
    email: String,
    token_uri: String,
}

impl Key {
    /// Reads the private key (PKCS #8 in PEM).
    pub(super) fn new(pem: &str, id: Option<String>, email: String, token_uri: String) -> Result<Key> {
        let bad = |why: String| {
            Error::new(Code::Precondition, format!("the key of {email} cannot be used"))
                .because(why)
                .hint(format!("gcloud iam service-accounts keys create key.json --iam-account {email}"))
        };
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| bad(error.to_string()))?;
        let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|error| bad(error.to_string()))?;
        Ok(Key { pair, id, email, token_uri })
    }

    /// Whose key it is.
    pub(super) fn email(&self) -> &str {
        &self.email
    }

    /// Where a token is had for it.
    pub(super) fn token_uri(&self) -> &str {
        &self.token_uri
    }

    /// A statement of `now` (Unix seconds) for which Google gives a token.
    pub(super) fn assertion(&self, scopes: &str, now: u64) -> Result<String> {
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": self.id });
        let claims = json!({ "iss": self.email, "scope": scopes, "aud": self.token_uri, "iat": now, "exp": now.saturating_add(LIFETIME) });
        let encoded = |value: serde_json::Value| crate::encoding::base64(value.to_string().as_bytes());
        let text = format!("{}.{}", encoded(header), encoded(claims));
        let mut signature = vec![0; self.pair.public().modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)
            .map_err(|_| Error::new(Code::Failed, format!("cannot sign with the key of {}", self.email)).hint("run the command again"))?;
        Ok(format!("{text}.{}", crate::encoding::base64(&signature)))
    }
}
