//! Where spans are found by their ids and by their keys.
//!
//! Both are random, so an index touches a page for every span that it takes in. What was appended last therefore waits in a tail
//! (`recent`) that is searched whole, and goes into the indexes (`ids`, `keys`) in sorted bulk.

use super::dag::Place;
use super::span::{B64, SpanId};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// An id is found by its first letters, 48 bits; whoever looks compares the whole.
pub(super) const SCHEMA: &str = "
CREATE TABLE recent (pos INTEGER PRIMARY KEY, id TEXT NOT NULL, key BLOB, chain INTEGER NOT NULL, seq INTEGER NOT NULL) STRICT;
CREATE TABLE ids (id TEXT NOT NULL, pos INTEGER NOT NULL, PRIMARY KEY (id, pos)) STRICT, WITHOUT ROWID;
CREATE TABLE keys (
  key BLOB NOT NULL, chain INTEGER NOT NULL, seq INTEGER NOT NULL, pos INTEGER NOT NULL, PRIMARY KEY (key, chain, seq)
) STRICT, WITHOUT ROWID;
";
/// The tables of [`SCHEMA`]. They say where spans stand on this device, so they differ from device to device.
pub(super) const TABLES: [&str; 3] = ["recent", "ids", "keys"];
/// How long the tail may grow: searching it takes a millisecond or two.
const TAIL: i64 = 16_384;
/// Letters of an id in the index.
const LETTERS: usize = 8;

/// What the indexes hold of a span.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark<'a> {
    pub(super) pos: i64,
    /// Its id as text.
    pub(super) id: &'a str,
    pub(super) key: Option<[u8; 16]>,
    pub(super) chain: i64,
    pub(super) seq: i64,
}

/// Notes a span at the end of the tail.
pub(super) fn append(conn: &Connection, mark: &Mark<'_>) -> rusqlite::Result<()> {
    let sql = "INSERT INTO recent (pos, id, key, chain, seq) VALUES (?1, ?2, ?3, ?4, ?5)";
    conn.prepare_cached(sql)?.execute(params![mark.pos, letters(mark.id), mark.key, mark.chain, mark.seq]).map(drop)
}

/// Notes a span in the indexes at once, where spans are looked up while they come.
pub(super) fn insert(conn: &Connection, mark: &Mark<'_>) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR IGNORE INTO ids (id, pos) VALUES (?1, ?2)")?.execute(params![letters(mark.id), mark.pos])?;
    let Some(key) = mark.key else { return Ok(()) };
    let sql = "INSERT OR IGNORE INTO keys (key, chain, seq, pos) VALUES (?1, ?2, ?3, ?4)";
    conn.prepare_cached(sql)?.execute(params![key, mark.chain, mark.seq, mark.pos]).map(drop)
}

/// Moves the tail into the indexes if it is long.
pub(super) fn merge_if_long(conn: &Connection) -> rusqlite::Result<()> {
    let bounds = bounds(conn)?;
    if bounds.is_some_and(|(first, last)| last - first >= TAIL) { merge(conn) } else { Ok(()) }
}

/// Moves the tail into the indexes.
pub(super) fn merge(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute("UPDATE projection SET cursor = max(cursor, (SELECT max(pos) FROM recent)) WHERE EXISTS (SELECT 1 FROM recent)", [])?;
    conn.execute("INSERT OR IGNORE INTO ids SELECT id, pos FROM recent ORDER BY id, pos", [])?;
    merge_keys(conn)
}

/// Moves the tail into the indexes when the ids are there already.
pub(super) fn merge_keys(conn: &Connection) -> rusqlite::Result<()> {
    let sql = "INSERT OR IGNORE INTO keys SELECT key, chain, seq, pos FROM recent WHERE key IS NOT NULL ORDER BY key, chain, seq";
    conn.execute(sql, [])?;
    conn.execute("DELETE FROM recent", []).map(drop)
}

/// Fills the index of ids from all spans.
pub(super) fn gather_ids(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute(&format!("INSERT INTO ids SELECT substr(id, 1, {LETTERS}), pos FROM spans ORDER BY 1, 2"), []).map(drop)
}

/// The first and the last position in the tail; none if it is empty.
fn bounds(conn: &Connection) -> rusqlite::Result<Option<(i64, i64)>> {
    let sql = "SELECT (SELECT min(pos) FROM recent), (SELECT max(pos) FROM recent)";
    conn.prepare_cached(sql)?.query_row([], |row| Ok(row.get::<_, Option<i64>>(0)?.zip(row.get(1)?)))
}

fn letters(id: &str) -> &str {
    id.get(..LETTERS).unwrap_or(id)
}

/// Whether a file has all of these tables.
pub(super) fn are_there(conn: &Connection) -> rusqlite::Result<bool> {
    for table in TABLES.into_iter().chain(["chains"]) {
        if !conn.table_exists(None, table)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a query wants of the span with an id, if it is here. `columns` are of `spans`.
pub(super) fn by_id<T>(
    conn: &Connection,
    id: &SpanId,
    columns: &str,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    let id = id.to_string();
    for index in ["ids", "recent"] {
        let sql = format!("SELECT {columns} FROM {index} AS i JOIN spans AS s ON s.pos = i.pos WHERE i.id = ?1 AND s.id = ?2");
        let found = conn.prepare_cached(&sql)?.query_row([letters(&id), &id], |row| read(row)).optional()?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Finds the positions of spans whose ids may begin with `?1`.
pub(super) const BEGINNING: &str = "SELECT pos FROM ids WHERE id >= substr(?1, 1, 8) AND id < substr(?1, 1, 8) || '~'
    UNION ALL SELECT pos FROM recent WHERE id >= substr(?1, 1, 8) AND id < substr(?1, 1, 8) || '~'";
/// Finds the positions of the spans about a key.
pub(super) const OF_KEY: &str = "WITH asked (key) AS (SELECT ?) SELECT pos FROM asked JOIN keys USING (key)
    UNION ALL SELECT pos FROM asked JOIN recent USING (key)";

/// The part of the tail that is about keys, in memory: read once, however many keys are asked for.
#[derive(Debug, Default)]
pub(super) struct Tail {
    bounds: Option<(i64, i64)>,
    keys: HashMap<[u8; 16], Vec<Place>>,
}

impl Tail {
    /// Takes in what was appended since the last time, or everything if the tail began anew meanwhile.
    pub(super) fn refresh(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let now = bounds(conn)?;
        if self.bounds == now {
            return Ok(());
        }
        let same = self.bounds.zip(now).is_some_and(|((from, _), (first, _))| from == first);
        if !same {
            *self = Tail::default();
        }
        let after = self.bounds.map_or(0, |(_, last)| last);
        let mut statement =
            conn.prepare_cached("SELECT key, chain, seq, pos FROM recent WHERE pos > ?1 AND key IS NOT NULL ORDER BY pos")?;
        let mut rows = statement.query([after])?;
        while let Some(row) = rows.next()? {
            let place = Place { chain: row.get(1)?, seq: row.get(2)?, pos: row.get(3)? };
            self.keys.entry(row.get(0)?).or_default().push(place);
        }
        self.bounds = now;
        Ok(())
    }

    /// All spans about a key.
    pub(super) fn about(&self, key: &[u8; 16]) -> impl Iterator<Item = Place> {
        self.keys.get(key).map_or(&[][..], Vec::as_slice).iter().copied()
    }

    /// The spans of an author about a key with numbers above `after`, up to `upto`, newest first.
    pub(super) fn between(&self, key: &[u8; 16], chain: i64, after: i64, upto: i64) -> impl Iterator<Item = Place> {
        let of_key = self.keys.get(key).map_or(&[][..], Vec::as_slice);
        of_key.iter().rev().filter(move |place| place.chain == chain && place.seq > after && place.seq <= upto).copied()
    }
}

/// What the indexes should hold, as sums over their rows in any order. The numbers that are added up are random functions of the rows,
/// so that rows that were changed, lost, doubled or made up add up to something else.
#[derive(Debug, Default)]
pub(super) struct Sums {
    random: RandomState,
    ids: u64,
    keys: u64,
}

impl Sums {
    /// Adds what there should be of a span.
    pub(super) fn add(&mut self, mark: &Mark<'_>, author: &B64<32>) {
        self.ids = self.ids.wrapping_add(self.random.hash_one((letters(mark.id), mark.pos)));
        if let Some(key) = mark.key {
            self.keys = self.keys.wrapping_add(self.random.hash_one((key, author, mark.seq, mark.pos)));
        }
    }

    /// The indexes of a file that hold something else.
    pub(super) fn differences(&self, conn: &Connection) -> Vec<String> {
        let ids = self.ids_of(conn).is_ok_and(|sum| sum == self.ids);
        let keys = self.keys_of(conn).is_ok_and(|sum| sum == self.keys);
        [("ids", ids), ("keys", keys)].iter().filter(|(_, same)| !same).map(|(name, _)| (*name).to_owned()).collect()
    }

    fn ids_of(&self, conn: &Connection) -> rusqlite::Result<u64> {
        let mut sum = 0u64;
        for index in ["ids", "recent"] {
            let mut statement = conn.prepare(&format!("SELECT id, pos FROM {index}"))?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                sum = sum.wrapping_add(self.random.hash_one((row.get_ref(0)?.as_str()?, row.get::<_, i64>(1)?)));
            }
        }
        Ok(sum)
    }

    fn keys_of(&self, conn: &Connection) -> rusqlite::Result<u64> {
        let mut authors: HashMap<i64, B64<32>> = HashMap::new();
        let mut statement = conn.prepare("SELECT n, author FROM chains")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            authors.insert(row.get(0)?, super::parse_id(row.get_ref(1)?.as_str()?)?);
        }
        let mut sum = 0u64;
        for index in ["keys", "recent"] {
            let mut statement = conn.prepare(&format!("SELECT key, chain, seq, pos FROM {index} WHERE key IS NOT NULL"))?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (key, chain): ([u8; 16], i64) = (row.get(0)?, row.get(1)?);
                let author = authors.get(&chain).ok_or(rusqlite::Error::QueryReturnedNoRows)?;
                sum = sum.wrapping_add(self.random.hash_one((key, author, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?)));
            }
        }
        Ok(sum)
    }
}

#[cfg(test)]
#[path = "places_tests.rs"]
mod tests;
