//! Who knew what when: heads, the past of a span, and spans about one key of which neither knew the other.
//!
//! An author's spans form a chain, so the past of a span is one number for each other author: up to where its author knew them.
//! These numbers change only where a span names heads of others; there they are written down (table `known`).

use super::places::{self, Tail};
use super::span::{B64, Span, SpanId};
use rusqlite::{Connection, OptionalExtension, params};

/// A span by its author's number and its own; where it stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) chain: i64,
    pub(super) seq: i64,
    pub(super) pos: i64,
}

/// The number of an author, a new one if need be.
pub(super) fn chain_of(tables: &Connection, author: &str) -> rusqlite::Result<i64> {
    if let Some(n) = find_chain(tables, author)? {
        return Ok(n);
    }
    tables.prepare_cached("INSERT INTO chains (author) VALUES (?1)")?.execute([author])?;
    Ok(tables.last_insert_rowid())
}

pub(super) fn find_chain(tables: &Connection, author: &str) -> rusqlite::Result<Option<i64>> {
    tables.prepare_cached("SELECT n FROM chains WHERE author = ?1")?.query_row([author], |row| row.get(0)).optional()
}

/// The author and number of a span that is here or known to be withheld.
pub(super) fn link(spans: &Connection, id: &SpanId) -> rusqlite::Result<Option<(String, i64)>> {
    if let Some(found) = places::by_id(spans, id, "s.author, s.seq", |row| Ok((row.get(0)?, row.get(1)?)))? {
        return Ok(Some(found));
    }
    let sql = "SELECT author, seq FROM withheld WHERE id = ?1";
    spans.prepare_cached(sql)?.query_row([id.to_string()], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

/// The spans that no other one builds on, by their authors' names: of each author the last, unless another one knows it.
pub(super) fn heads(conn: &Connection) -> rusqlite::Result<Vec<(String, SpanId)>> {
    let all = chains(conn)?;
    let sql = "SELECT s.author, s.seq, s.id FROM chains c JOIN spans s ON s.author = c.author WHERE c.n = ?1 ORDER BY s.seq DESC LIMIT 1";
    let tip = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)?, super::parse_id(row.get_ref(2)?.as_str()?)?));
    let mut heads = Vec::new();
    for chain in &all {
        let Some((author, seq, id)) = conn.prepare_cached(sql)?.query_row([chain], tip).optional()? else { continue };
        let mut known = false;
        for other in all.iter().filter(|other| *other != chain) {
            known |= knows(conn, *other, i64::MAX, *chain)?.is_some_and(|upto| upto >= seq);
        }
        if !known {
            heads.push((author, id));
        }
    }
    Ok(heads)
}

/// Notes what a span's author learned with it.
pub(super) fn learn(tables: &Connection, spans: &Connection, chain: i64, span: &Span) -> rusqlite::Result<()> {
    let seq = i64::try_from(span.seq).unwrap_or(i64::MAX);
    for dep in &span.deps {
        let Some((author, upto)) = link(spans, dep)? else { continue };
        let other = chain_of(tables, &author)?;
        raise(tables, chain, seq, other, upto)?;
        for third in chains(tables)? {
            if third != chain
                && third != other
                && let Some(upto) = knows(tables, other, upto, third)?
            {
                raise(tables, chain, seq, third, upto)?;
            }
        }
    }
    Ok(())
}

fn raise(tables: &Connection, chain: i64, seq: i64, other: i64, upto: i64) -> rusqlite::Result<()> {
    if knows(tables, chain, seq, other)?.is_some_and(|known| known >= upto) {
        return Ok(());
    }
    let sql = "INSERT INTO known (chain, other, seq, upto) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET upto = excluded.upto";
    tables.prepare_cached(sql)?.execute([chain, other, seq, upto]).map(drop)
}

fn chains(tables: &Connection) -> rusqlite::Result<Vec<i64>> {
    tables.prepare_cached("SELECT n FROM chains ORDER BY n")?.query_map([], |row| row.get(0))?.collect()
}

/// Up to which of `other`'s spans the author `chain` knew when it wrote `seq`; none if it knew nothing of it.
pub(super) fn knows(tables: &Connection, chain: i64, seq: i64, other: i64) -> rusqlite::Result<Option<i64>> {
    if chain == other {
        return Ok(Some(seq));
    }
    let sql = "SELECT upto FROM known WHERE chain = ?1 AND other = ?2 AND seq <= ?3 ORDER BY seq DESC LIMIT 1";
    tables.prepare_cached(sql)?.query_row([chain, other, seq], |row| row.get(0)).optional()
}

/// Where spans about keys are found: the tables, and the tail of what is not in them yet.
#[derive(Clone, Copy)]
pub(super) struct Keyed<'c> {
    pub(super) tables: &'c Connection,
    pub(super) tail: &'c Tail,
}

impl Keyed<'_> {
    /// An author's newest span about a key with a number up to `seq`.
    fn last_before(self, key: &[u8; 16], chain: i64, seq: i64) -> rusqlite::Result<Option<Place>> {
        Ok(self.between(key, chain, -1, seq, 1)?.pop())
    }

    /// An author's spans about a key with numbers above `after`, up to `upto`: the newest `limit` of them, newest first.
    fn between(self, key: &[u8; 16], chain: i64, after: i64, upto: i64, limit: usize) -> rusqlite::Result<Vec<Place>> {
        let sql = "SELECT seq, pos FROM keys WHERE key = ?1 AND chain = ?2 AND seq > ?3 AND seq <= ?4 ORDER BY seq DESC LIMIT ?5";
        let place = |row: &rusqlite::Row<'_>| Ok(Place { chain, seq: row.get(0)?, pos: row.get(1)? });
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut found: Vec<Place> = self.tail.between(key, chain, after, upto).take(limit).collect();
        let mut statement = self.tables.prepare_cached(sql)?;
        for row in statement.query_map(params![key, chain, after, upto, most], place)? {
            found.push(row?);
        }
        found.sort_by_key(|place| std::cmp::Reverse(place.seq));
        found.truncate(limit);
        Ok(found)
    }
}

/// Of each author the newest span about a key.
pub(super) fn newest_of_each(keyed: Keyed<'_>, key: &[u8; 16]) -> rusqlite::Result<Vec<Place>> {
    chains(keyed.tables)?.into_iter().filter_map(|chain| keyed.last_before(key, chain, i64::MAX).transpose()).collect()
}

/// Whether `before` is `after` or in its past.
fn reaches(tables: &Connection, after: Place, before: Place) -> rusqlite::Result<bool> {
    Ok(knows(tables, after.chain, after.seq, before.chain)?.is_some_and(|upto| upto >= before.seq))
}

/// The spans about a key that no other span about it builds on. More than one is a conflict.
pub(super) fn heads_of(keyed: Keyed<'_>, key: &[u8; 16]) -> rusqlite::Result<Vec<Place>> {
    let newest = newest_of_each(keyed, key)?;
    let mut heads = Vec::new();
    for one in &newest {
        let mut covered = false;
        for other in newest.iter().filter(|other| other.chain != one.chain) {
            covered |= reaches(keyed.tables, *other, *one)?;
        }
        if !covered {
            heads.push(*one);
        }
    }
    Ok(heads)
}

/// Of each author the newest span about a key that is in the past of all of these, or one of them.
pub(super) fn common_past(keyed: Keyed<'_>, key: &[u8; 16], of: &[Place]) -> rusqlite::Result<Vec<Place>> {
    let mut found = Vec::new();
    for chain in chains(keyed.tables)? {
        let mut upto = Some(i64::MAX);
        for place in of {
            upto = upto.min(knows(keyed.tables, place.chain, place.seq, chain)?);
        }
        if let Some(upto) = upto {
            found.extend(keyed.last_before(key, chain, upto)?);
        }
    }
    Ok(found)
}

/// The spans about a key in the past of `to`, itself included, without those in the past of `from`; at most so many of each author.
pub(super) fn between(keyed: Keyed<'_>, key: &[u8; 16], from: Option<Place>, to: Place, limit: usize) -> rusqlite::Result<Vec<Place>> {
    let mut found = Vec::new();
    for chain in chains(keyed.tables)? {
        let Some(upto) = knows(keyed.tables, to.chain, to.seq, chain)? else { continue };
        let after = from.map(|from| knows(keyed.tables, from.chain, from.seq, chain)).transpose()?.flatten().unwrap_or(-1);
        found.extend(keyed.between(key, chain, after, upto, limit)?);
    }
    Ok(found)
}

/// Of each other author the newest span about the key that neither knew this one nor was known to it.
pub(super) fn rivals(keyed: Keyed<'_>, key: &[u8; 16], author: &B64<32>, seq: u64) -> rusqlite::Result<Vec<Place>> {
    let Some(chain) = find_chain(keyed.tables, &author.to_string())? else { return Ok(Vec::new()) };
    let this = Place { chain, seq: i64::try_from(seq).unwrap_or(i64::MAX), pos: 0 };
    let mut found = Vec::new();
    for other in chains(keyed.tables)?.into_iter().filter(|other| *other != chain) {
        // From the newest back to the first that this one knew.
        let first = knows(keyed.tables, chain, this.seq, other)?.unwrap_or(-1);
        let mut candidate = keyed.last_before(key, other, before_learning(keyed.tables, other, this)?)?;
        candidate = candidate.filter(|place| place.seq > first);
        found.extend(candidate);
    }
    Ok(found)
}

/// The last span of `other` before it learned of `this`.
fn before_learning(tables: &Connection, other: i64, this: Place) -> rusqlite::Result<i64> {
    let sql = "SELECT min(seq) FROM known WHERE chain = ?1 AND other = ?2 AND upto >= ?3";
    let learned: Option<i64> = tables.prepare_cached(sql)?.query_row([other, this.chain, this.seq], |row| row.get(0))?;
    Ok(learned.map_or(i64::MAX, |seq| seq - 1))
}
