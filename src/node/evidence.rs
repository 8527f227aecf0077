//! The node's word about itself: hardware asked one call at a time, behind a cache with an age.

use crate::attest::evidence::{Evidence, Nonce, SnpEvidence, Subject, TpmEvidence};
use crate::config::time::now_s;
use crate::error::{Code, Error, Result};
use crate::session::messages::Activation;
use crate::session::seed::Source;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use zeroize::Zeroizing;

/// Cached evidence older than this is made anew when somebody asks for it.
const FRESH_FOR: u64 = 3600;
/// Calls of guests that may wait for the hardware; it takes up to a second for each.
const MAX_WAITING: usize = 16;

/// What hardware can sign for a machine.
pub trait Hardware: Send {
    /// Evidence about a subject.
    fn collect(&mut self, subject: &Subject) -> Result<Collected>;
    /// Opens a verifier's challenge to the TPM.
    fn activate(&mut self, activation: &Activation) -> Result<Zeroizing<Vec<u8>>>;
}

/// What a node says of itself, whatever it is asked.
#[derive(Clone, Copy)]
pub(super) struct Speaker {
    /// Its Noise key.
    pub(super) node: [u8; 32],
    /// SHA-256 of the program.
    pub(super) app_digest: [u8; 32],
    /// Where its seed comes from.
    pub(super) seed: Source,
}

impl Speaker {
    fn about(self, nonce: Nonce) -> Subject {
        Subject { node: self.node, app_digest: self.app_digest, nonce, seed: Some(self.seed) }
    }
}

/// What hardware signed.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// The processor's word.
    pub snp: Option<SnpEvidence>,
    /// The TPM's word.
    pub tpm: Option<TpmEvidence>,
}

/// Evidence for a key of the node, made some time ago.
#[derive(Clone)]
struct Cached {
    made: u64,
    node: [u8; 32],
    bytes: Arc<[u8]>,
}

/// Asks the hardware of this machine, if it has any that can sign.
pub struct Witness {
    hardware: Option<Mutex<Box<dyn Hardware>>>,
    cached: RwLock<Option<Cached>>,
    waiting: AtomicUsize,
}

impl Witness {
    /// A machine whose hardware says nothing.
    pub fn none() -> Arc<Witness> {
        Witness::of(None)
    }

    /// A machine with such hardware.
    pub fn of(hardware: Option<Box<dyn Hardware>>) -> Arc<Witness> {
        Arc::new(Witness { hardware: hardware.map(Mutex::new), cached: RwLock::default(), waiting: AtomicUsize::new(0) })
    }

    /// Fresh evidence that answers a nonce.
    pub(super) async fn answer(self: &Arc<Self>, speaker: Speaker, nonce: [u8; 32]) -> Result<Option<Vec<u8>>> {
        let subject = speaker.about(Nonce(nonce));
        // Only the owner can ask so: guests who crowd the queue do not keep him out.
        self.ask(usize::MAX, move |hardware| make(hardware, &subject)).await
    }

    /// Evidence for whoever has a session; that it is fresh follows from the session's own handshake with the key in it.
    pub(super) async fn cached(self: &Arc<Self>, speaker: Speaker) -> Result<Option<Vec<u8>>> {
        let (now, node) = (now_s(), speaker.node);
        if let Some(bytes) = self.known(&node, now) {
            return Ok(Some(bytes.to_vec()));
        }
        let witness = self.clone();
        self.ask(MAX_WAITING, move |hardware| {
            // Whoever waited meanwhile finds what the first one made.
            if let Some(bytes) = witness.known(&node, now) {
                return Ok(bytes.to_vec());
            }
            let bytes = make(hardware, &speaker.about(Nonce::at(now)))?;
            let cached = Cached { made: now, node, bytes: bytes.as_slice().into() };
            *witness.cached.write().unwrap_or_else(PoisonError::into_inner) = Some(cached);
            Ok(bytes)
        })
        .await
    }

    /// The secret in a challenge of whoever has a session.
    pub(super) async fn activate(self: &Arc<Self>, activation: Activation) -> Result<Zeroizing<Vec<u8>>> {
        self.activate_within(MAX_WAITING, activation).await
    }

    /// The secret in the owner's challenge.
    pub(super) async fn activate_for_owner(self: &Arc<Self>, activation: Activation) -> Result<Zeroizing<Vec<u8>>> {
        self.activate_within(usize::MAX, activation).await
    }

    async fn activate_within(self: &Arc<Self>, places: usize, activation: Activation) -> Result<Zeroizing<Vec<u8>>> {
        let secret = self.ask(places, move |hardware| hardware.activate(&activation)).await?;
        secret.ok_or_else(|| Error::new(Code::Precondition, "this machine has no TPM").hint("ask without demanding one"))
    }

    fn known(&self, node: &[u8; 32], now: u64) -> Option<Arc<[u8]>> {
        let cached = self.cached.read().unwrap_or_else(PoisonError::into_inner);
        let fresh = cached.as_ref().filter(|cached| cached.node == *node && now.abs_diff(cached.made) < FRESH_FOR);
        fresh.map(|cached| cached.bytes.clone())
    }

    /// One call at a time, on a thread that may wait. Too many who wait are sent away.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        places: usize,
        work: impl FnOnce(&mut dyn Hardware) -> Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        if self.hardware.is_none() {
            return Ok(None);
        }
        let turn = Turn::take(self, places)?;
        let done = tokio::task::spawn_blocking(move || {
            let mut hardware = turn.0.hardware.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
            Some(work(&mut **hardware))
        });
        let none = |error| Error::new(Code::Failed, "the hardware could not be asked").cause(error).hint("try again in a moment");
        done.await.map_err(none)?.transpose()
    }
}

/// A place in the queue for the hardware.
struct Turn(Arc<Witness>);

impl Turn {
    fn take(witness: &Arc<Witness>, places: usize) -> Result<Turn> {
        let waiting = witness.waiting.fetch_add(1, Ordering::Relaxed);
        let turn = Turn(witness.clone());
        if waiting < places {
            return Ok(turn);
        }
        Err(Error::new(Code::Refused, "too many ask the hardware of this machine at once").hint("try again in a moment"))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn make(hardware: &mut dyn Hardware, subject: &Subject) -> Result<Vec<u8>> {
    let Collected { snp, tpm } = hardware.collect(subject)?;
    Ok(Evidence { nonce: subject.nonce, app_digest: subject.app_digest, snp, tpm, seed: subject.seed }.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speaker(node: u8) -> Speaker {
        Speaker { node: [node; 32], app_digest: [2; 32], seed: Source::Sealed }
    }

    struct Counting(Arc<AtomicUsize>);

    impl Hardware for Counting {
        fn collect(&mut self, _: &Subject) -> Result<Collected> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(Collected::default())
        }
        fn activate(&mut self, _: &Activation) -> Result<Zeroizing<Vec<u8>>> {
            Ok(Zeroizing::new(vec![1; 32]))
        }
    }

    #[tokio::test]
    async fn the_hardware_is_asked_once_for_everybody_and_each_time_for_the_owner() {
        let calls = Arc::new(AtomicUsize::new(0));
        let witness = Witness::of(Some(Box::new(Counting(calls.clone()))));
        for _ in 0..5000 {
            witness.cached(speaker(1)).await.unwrap().unwrap();
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        let bytes = witness.answer(speaker(1), [3; 32]).await.unwrap().unwrap();
        let evidence = Evidence::decode(&bytes).unwrap();
        assert_eq!((evidence.nonce, evidence.seed), (Nonce([3; 32]), Some(Source::Sealed)));
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        // Another key is another subject.
        witness.cached(speaker(9)).await.unwrap().unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_machine_without_hardware_says_nothing() {
        let witness = Witness::none();
        assert_eq!(witness.cached(speaker(1)).await.unwrap(), None);
        assert!(witness.activate(Activation { credential_blob: vec![], encrypted_secret: vec![] }).await.is_err());
    }
}
