//! Signatures of many spans at once: as strict as one by one, in a third of the time.
//!
//! Each signature's own equation (RFC 8032) leaves a point that is zero if it holds. Here they are added up with random factors of 128
//! bits. In the subgroup of prime order nothing else adds up to zero but with a chance of 2^-128; there the keys of one author, who wrote
//! most of a ledger, come together to one term. What lies outside of the subgroup, of order 2, 4 or 8, the random factors may cancel: a
//! signature that strict verification refuses would pass now and then. So every key and every point R is made sure to be in the subgroup
//! first. Keys are few and are tested one by one; for the points, [`ROUNDS`] random halves of them are added up and the sums tested. A
//! point outside makes each of these sums fail with a chance of at least one half, whatever the others are. What is left of strict
//! verification is checked for each: S in its one range, no key and no R of small order.

use super::span::{self, B64, SpanId};
use crate::keyring;
use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{Identity, IsIdentity, VartimeMultiscalarMul};
use sha2::{Digest, Sha512};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// One signature to check: author, id, signature.
pub(super) type Asked = (B64<32>, SpanId, [u8; 64]);

/// The chance that a point outside the subgroup goes unseen is 2^-64, with numbers that nobody knows beforehand.
const ROUNDS: usize = 64;
/// So many rounds go together: a point is added to one of the sums for every choice of these rounds, not to each round's own.
const TOGETHER: usize = 8;
/// Fewer are checked one by one: the sums alone cost as much as so many signatures.
const WORTH_IT: usize = 128;

/// Whether every one of these signatures holds, strictly. If not, the caller asks which.
pub(super) fn all_hold(asked: &[Asked]) -> bool {
    if asked.len() < WORTH_IT {
        return asked.iter().all(|(author, id, signature)| span::signed(author, id, signature));
    }
    batch_holds(asked).unwrap_or(false)
}

/// The terms of an author: its key, and the factor that all its signatures add up to.
struct Key {
    point: EdwardsPoint,
    factor: Scalar,
}

/// `None` if something cannot even be read.
fn batch_holds(asked: &[Asked]) -> Option<bool> {
    let mut numbers = random()?;
    let mut keys: HashMap<[u8; 32], Key> = HashMap::new();
    let (mut points, mut factors) = (Vec::with_capacity(asked.len() + 2), Vec::with_capacity(asked.len() + 2));
    let mut base = Scalar::ZERO;
    for (author, id, signature) in asked {
        let (r, s) = signature.split_first_chunk::<32>()?;
        let s = Option::<Scalar>::from(Scalar::from_canonical_bytes(s.try_into().ok()?))?;
        let point = CompressedEdwardsY(*r).decompress().filter(|point| !point.is_small_order())?;
        let key = match keys.entry(author.0) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Key { point: sound_key(&author.0)?, factor: Scalar::ZERO }),
        };
        let mut hash = Sha512::new();
        hash.update(r);
        hash.update(author.0);
        hash.update(keyring::message(span::TYPE, &id.0));
        let mut half = [0; 16];
        numbers.fill(&mut half);
        let factor = Scalar::from(u128::from_le_bytes(half));
        key.factor += factor * Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
        base -= factor * s;
        points.push(point);
        factors.push(factor);
    }
    if !all_in_subgroup(&points, &mut numbers) {
        return Some(false);
    }
    for key in keys.into_values() {
        points.push(key.point);
        factors.push(key.factor);
    }
    points.push(ED25519_BASEPOINT_POINT);
    factors.push(base);
    Some(EdwardsPoint::vartime_multiscalar_mul(&factors, &points).is_identity())
}

/// Numbers that nobody knows beforehand; `None` without them.
fn random() -> Option<blake3::OutputReader> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).ok()?;
    Some(blake3::Hasher::new_keyed(&seed).finalize_xof())
}

/// A key in the subgroup of prime order.
fn sound_key(bytes: &[u8; 32]) -> Option<EdwardsPoint> {
    let point = CompressedEdwardsY(*bytes).decompress()?;
    (!point.is_small_order() && point.is_torsion_free()).then_some(point)
}

/// Whether all of these are in the subgroup of prime order.
fn all_in_subgroup(points: &[EdwardsPoint], numbers: &mut blake3::OutputReader) -> bool {
    let mut choices = vec![0u8; points.len()];
    (0..ROUNDS / TOGETHER).all(|_| {
        numbers.fill(&mut choices);
        let mut sums = [EdwardsPoint::identity(); 1 << TOGETHER];
        for (point, choice) in points.iter().zip(&choices).filter(|(_, choice)| **choice > 0) {
            sums[usize::from(*choice)] += point;
        }
        // The sum of a round is over the choices with its bit; from the highest on, the bit is then taken off.
        (0..TOGETHER).rev().all(|bit| {
            let (without, with) = sums[..2 << bit].split_at_mut(1 << bit);
            without.iter_mut().zip(&*with).for_each(|(sum, other)| *sum += other);
            with.iter().sum::<EdwardsPoint>().is_torsion_free()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use curve25519_dalek::constants::{ED25519_BASEPOINT_TABLE, EIGHT_TORSION};

    fn good(n: usize) -> Vec<Asked> {
        let key = ed25519_dalek::SigningKey::from_bytes(&[3; 32]);
        let author = B64(key.verifying_key().to_bytes());
        (0..n).map(|n| B64(*blake3::hash(&n.to_le_bytes()).as_bytes())).map(|id| (author, id, span::sign(&key, &id))).collect()
    }

    /// A signature by somebody who knows the key and adds points of small order to key and R.
    fn crooked(to_key: EdwardsPoint, to_r: EdwardsPoint, number: u8) -> Asked {
        let (secret, nonce) = (Scalar::from(77u8), Scalar::from(1000 + u64::from(number)));
        let key = (&secret * ED25519_BASEPOINT_TABLE + to_key).compress();
        let r = (&nonce * ED25519_BASEPOINT_TABLE + to_r).compress();
        let id = B64([number; 32]);
        let mut hash = Sha512::new();
        hash.update(r.0);
        hash.update(key.0);
        hash.update(keyring::message(span::TYPE, &id.0));
        let k = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&r.0);
        signature[32..].copy_from_slice((nonce + k * secret).as_bytes());
        (B64(key.0), id, signature)
    }

    #[test]
    fn good_signatures_hold_and_one_bad_one_is_seen() {
        let all = good(300);
        assert!(all_hold(&all) && all_hold(&all[..5]) && all_hold(&[]));
        for at in [0, 1, 150, 299] {
            for byte in [0, 31, 32, 63] {
                let mut bad = all.clone();
                bad[at].2[byte] ^= 1;
                assert!(!all_hold(&bad), "byte {byte} of {at}");
            }
        }
    }

    /// What passes the plain batch equation now and then, and strict verification never.
    #[test]
    fn what_strict_verification_refuses_is_refused_in_a_batch() {
        let none = EdwardsPoint::identity();
        let honest = crooked(none, none, 1);
        assert!(span::signed(&honest.0, &honest.1, &honest.2));
        for torsion in &EIGHT_TORSION[1..] {
            for number in 0..8 {
                for bad in [crooked(none, *torsion, number), crooked(*torsion, none, number), crooked(*torsion, -*torsion, number)] {
                    // With a key outside the subgroup some signatures hold; they may be refused in a batch and are then asked one by one.
                    let strict = span::signed(&bad.0, &bad.1, &bad.2);
                    let mut all = good(200);
                    all[20] = bad;
                    assert!(strict || !all_hold(&all));
                }
            }
        }
        // Two that cancel each other, as the same factor would have it.
        let mut all = good(200);
        (all[3], all[9]) = (crooked(none, EIGHT_TORSION[4], 1), crooked(none, EIGHT_TORSION[4], 2));
        assert!(!all_hold(&all));
    }

    #[test]
    fn small_orders_and_second_spellings_are_refused() {
        let mut all = good(200);
        all[0].0 = B64(EIGHT_TORSION[1].compress().0);
        assert!(!all_hold(&all));
        let mut all = good(200);
        all[0].2[..32].copy_from_slice(&EIGHT_TORSION[2].compress().0);
        assert!(!all_hold(&all));
        // S plus the order of the group is the same number in another spelling.
        let mut order = (-Scalar::ONE).to_bytes();
        order[0] += 1;
        let mut all = good(200);
        let mut carry = 0u16;
        for (byte, add) in all[0].2[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            (*byte, carry) = (sum as u8, sum >> 8);
        }
        assert!(!all_hold(&all));
    }
}
