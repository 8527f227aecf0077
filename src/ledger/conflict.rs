//! What several devices said about one key without knowing of each other, and which of it counts.

use super::audience::{Audience, Eyes};
use super::dag::{self, Keyed, Place};
use super::log::{self, Entry};
use super::span::SpanId;
use super::{Ledger, keys, store};
use crate::error::{Code, Error, Result};
use rusqlite::Connection;
use serde::Serialize;

/// The most spans of one author that a path shows.
const PATH: usize = 64;

/// All there is to say about one key.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The key, as in `machine/home`.
    pub key: String,
    /// The spans about it that no later one builds on, the one that counts last. More than one is a conflict.
    pub heads: Vec<Entry>,
    /// The newest span about it that all heads know.
    pub ancestor: Option<Entry>,
    /// For each head, in the same order, the spans about the key from the common ancestor to it, oldest first.
    pub paths: Vec<Vec<SpanId>>,
}

impl Inspection {
    /// The span that counts.
    pub fn winner(&self) -> Option<&Entry> {
        self.heads.last()
    }
}

/// A span that another device wrote about the same key at the same time.
#[derive(Clone, Debug, Serialize)]
pub struct Rival {
    /// The other span.
    pub entry: Entry,
    /// Whether the other one counts.
    pub wins: bool,
}

impl Ledger {
    /// What else was said about the key of this span, without knowing of it and unknown to it; of each device the last.
    pub fn rivals(&self, entry: &Entry, audience: &Audience) -> Result<Vec<Rival>> {
        let Some(key) = entry.key() else { return Ok(Vec::new()) };
        let (conn, mut tail) = (self.conn(), self.tail());
        let mut read = || {
            tail.refresh(&conn)?;
            let eyes = Eyes::of(audience, &conn)?;
            let keyed = Keyed { tables: &conn, tail: &tail };
            entries(&conn, &eyes, &dag::rivals(keyed, &keys::digest(&key), &entry.span.author, entry.span.seq)?)
        };
        let found = read().map_err(|error| store::failed(self.path(), "read", error))?;
        Ok(found.into_iter().map(|(_, other)| Rival { wins: keys::weigh(&other, entry).is_gt(), entry: other }).collect())
    }

    /// Heads, common ancestor and paths of a key, as the operator at this device sees them.
    pub fn inspect(&self, key: &str) -> Result<Inspection> {
        let (conn, mut tail) = (self.conn(), self.tail());
        let mut read = || {
            tail.refresh(&conn)?;
            look(Keyed { tables: &conn, tail: &tail }, key)
        };
        let found = read().map_err(|error| store::failed(self.path(), "read", error))?;
        if found.heads.is_empty() {
            let shown: String = key.chars().take(80).collect();
            return Err(Error::new(Code::NotFound, format!("nothing was recorded about {shown:?}"))
                .hint("see what entries are about: portdistrict ledger log --json"));
        }
        Ok(found)
    }
}

fn look(keyed: Keyed<'_>, key: &str) -> rusqlite::Result<Inspection> {
    let conn = keyed.tables;
    let eyes = Eyes::of(&Audience::ThisDevice, conn)?;
    let digest = keys::digest(key);
    let heads = entries(conn, &eyes, &dag::heads_of(keyed, &digest)?)?;
    let places: Vec<Place> = heads.iter().map(|(place, _)| *place).collect();
    // A lone head has no other to have something in common with: its path is all there is.
    let past = if places.len() > 1 { dag::common_past(keyed, &digest, &places)? } else { Vec::new() };
    let ancestor = entries(conn, &eyes, &past)?.pop();
    let mut paths = Vec::new();
    for place in &places {
        let way = dag::between(keyed, &digest, ancestor.as_ref().map(|(place, _)| *place), *place, PATH)?;
        paths.push(entries(conn, &eyes, &way)?.into_iter().map(|(_, entry)| entry.id).collect());
    }
    let heads = heads.into_iter().map(|(_, entry)| entry).collect();
    Ok(Inspection { key: key.to_owned(), heads, ancestor: ancestor.map(|(_, entry)| entry), paths })
}

/// The spans at these places that the audience may see, in the order that every device agrees on, what counts last.
fn entries(conn: &Connection, eyes: &Eyes, places: &[Place]) -> rusqlite::Result<Vec<(Place, Entry)>> {
    let mut found = Vec::new();
    for place in places {
        found.extend(log::at(conn, eyes, place.pos)?.map(|entry| (*place, entry)));
    }
    found.sort_by(|(_, one), (_, other)| keys::weigh(one, other));
    Ok(found)
}
