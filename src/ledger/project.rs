//! The one path from spans to tables that answer questions (LT2). A cursor says how far it has come; the tables may be
//! dropped at any time and are made again from the spans.
//!
//! What the spans of one key say is read in the order of their clocks, then authors, which is the same on every device. One that
//! arrives after a later one makes its key be read anew, so the tables do not depend on the order of arrival. Therefore a span
//! changes nothing but rows of its own key, and without a key it changes nothing. (Peers put their events in order themselves.)

use super::change::{change, int, run};
use super::dag::{self, Keyed};
use super::places::{self, Mark, Sums, Tail};
use super::span::{B64, Span};
use super::{devices, keys, parallel, peers, resources};
use rusqlite::{Connection, OptionalExtension, Row};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

/// Raised whenever a table or the way it is filled changes; an older file is then rebuilt when it is opened.
const VERSION: i64 = 12;

/// A table that spans fill.
pub(super) struct Table {
    /// Its name.
    pub(super) name: &'static str,
    /// The noun of the keys it is about, and the column with their names; none for what is about the history itself.
    key: Option<(&'static str, &'static str)>,
    /// All that it says, in one order, with authors by name: their numbers depend on who arrived first.
    pub(super) dump: &'static str,
}

const fn about(name: &'static str, noun: &'static str, column: &'static str, dump: &'static str) -> Table {
    Table { name, key: Some((noun, column)), dump }
}

/// The tables that say the same on every device that holds the same spans, in the order they are made.
pub(super) const TABLES: [Table; 25] = [
    Table { name: "chains", key: None, dump: "SELECT author FROM chains ORDER BY 1" },
    Table {
        name: "known",
        key: None,
        dump: "SELECT a.author, b.author, seq, upto FROM known JOIN chains a ON a.n = known.chain JOIN chains b ON b.n = known.other ORDER BY 1, 2, 3",
    },
    about("machines", "machine", "label", "SELECT * FROM machines ORDER BY 1"),
    about("grants", "grant", "id", "SELECT * FROM grants ORDER BY 1"),
    about("reuses", "grant", "id", "SELECT * FROM reuses ORDER BY 1, 2"),
    about("exits", "exit", "name", "SELECT * FROM exits ORDER BY 1"),
    about("pins", "node", "address", "SELECT * FROM pins ORDER BY 1"),
    about("proofs", "evidence", "node_key", "SELECT * FROM proofs ORDER BY 1"),
    about("proved", "evidence", "node_key", "SELECT * FROM proved ORDER BY 1"),
    about("points", "evidence", "node_key", "SELECT * FROM points ORDER BY 1, 2"),
    about("groups", "group", "name", "SELECT * FROM groups ORDER BY 1, 2"),
    // One key for all, so no column names it.
    about("policies", "policy", "'owner'", "SELECT * FROM policies ORDER BY 1"),
    about("rules_heard", "rules", "node_key", "SELECT * FROM rules_heard ORDER BY 1"),
    about("passed_on", "grant", "id", "SELECT * FROM passed_on ORDER BY 1"),
    about("deliveries", "grant", "id", "SELECT * FROM deliveries ORDER BY 1, 2"),
    about("leases", "lease", "node_key", "SELECT * FROM leases ORDER BY 1"),
    about("rotations", "identity", "old", "SELECT * FROM rotations ORDER BY 1, 2"),
    about("certificates", "identity", "old", "SELECT * FROM certificates ORDER BY 1, 2, 3"),
    about("described", "chain", "key", "SELECT * FROM described ORDER BY 1"),
    about("devices", "device", "key", "SELECT * FROM devices ORDER BY 1"),
    about("device_codes", "code", "id", "SELECT * FROM device_codes ORDER BY 1"),
    about("resources", "resource", "id", "SELECT * FROM resources ORDER BY 1"),
    // Made of events that are put in order there, and one span may be an event of two peers: nothing to clear.
    Table { name: "peers", key: None, dump: "SELECT * FROM peers ORDER BY 1" },
    Table { name: "peer_events", key: None, dump: "SELECT * FROM peer_events ORDER BY 1, 2" },
    Table { name: "peer_faults", key: None, dump: "SELECT * FROM peer_faults ORDER BY 1" },
];

const SCHEMA: &str = "
CREATE TABLE projection (version INTEGER NOT NULL, cursor INTEGER NOT NULL) STRICT;
CREATE TABLE chains (n INTEGER PRIMARY KEY, author TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE known (
  chain INTEGER NOT NULL, other INTEGER NOT NULL, seq INTEGER NOT NULL, upto INTEGER NOT NULL, PRIMARY KEY (chain, other, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE machines (
  label TEXT PRIMARY KEY, provider TEXT NOT NULL, address TEXT, node_key TEXT, state TEXT NOT NULL, owner TEXT NOT NULL,
  cover TEXT, dir TEXT, detail TEXT NOT NULL, seed_source TEXT, evidence TEXT,
  created_ms INTEGER NOT NULL, changed_ms INTEGER NOT NULL, span TEXT NOT NULL, exit_off INTEGER NOT NULL DEFAULT 0,
  exit_ms INTEGER NOT NULL DEFAULT 0, exit_n INTEGER NOT NULL DEFAULT 0, tor_off INTEGER NOT NULL DEFAULT 0,
  tor_ms INTEGER NOT NULL DEFAULT 0, tor_n INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE grants (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, node TEXT, node_key TEXT, subject TEXT NOT NULL, mode TEXT NOT NULL,
  not_before INTEGER NOT NULL, expires INTEGER NOT NULL, limits TEXT NOT NULL, signed BLOB NOT NULL,
  issued_ms INTEGER NOT NULL, issued_n INTEGER NOT NULL, revoked_at INTEGER, reason TEXT, revocation BLOB, span TEXT NOT NULL,
  revision INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE reuses (
  id TEXT NOT NULL, node TEXT NOT NULL, count INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (id, node)
) STRICT, WITHOUT ROWID;
CREATE TABLE exits (
  name TEXT PRIMARY KEY, transport TEXT NOT NULL, addresses TEXT NOT NULL, node_key TEXT NOT NULL, signed BLOB NOT NULL,
  bound INTEGER NOT NULL, expires INTEGER NOT NULL, accepted_ms INTEGER NOT NULL, span TEXT NOT NULL, onion TEXT, discovery TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE proofs (
  node_key TEXT PRIMARY KEY, name TEXT NOT NULL, outcome TEXT NOT NULL, rung TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT,
  evidence TEXT NOT NULL, image TEXT, measurement TEXT, endorsement TEXT, discovered INTEGER NOT NULL, judged_ms INTEGER NOT NULL,
  span TEXT NOT NULL
) STRICT, WITHOUT ROWID;
-- What was verified before the refusal that `proofs` holds now.
CREATE TABLE proved (
  node_key TEXT PRIMARY KEY, name TEXT NOT NULL, outcome TEXT NOT NULL, rung TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT,
  evidence TEXT NOT NULL, image TEXT, measurement TEXT, endorsement TEXT, discovered INTEGER NOT NULL, judged_ms INTEGER NOT NULL,
  span TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE points (
  node_key TEXT NOT NULL, event TEXT NOT NULL, ms INTEGER NOT NULL, span TEXT NOT NULL, PRIMARY KEY (node_key, event)
) STRICT, WITHOUT ROWID;
CREATE TABLE groups (name TEXT NOT NULL, member TEXT NOT NULL, PRIMARY KEY (name, member)) STRICT, WITHOUT ROWID;
CREATE INDEX groups_by_member ON groups (member);
CREATE INDEX grants_live ON grants (expires) WHERE revoked_at IS NULL;
CREATE TABLE policies (
  number INTEGER PRIMARY KEY, policy TEXT NOT NULL, reason TEXT NOT NULL, author TEXT NOT NULL, set_ms INTEGER NOT NULL, span TEXT NOT NULL
) STRICT;
CREATE TABLE rules_heard (node_key TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE passed_on (
  id TEXT PRIMARY KEY, parent TEXT NOT NULL, name TEXT NOT NULL, node_key TEXT NOT NULL, exit TEXT, caveat BLOB, expires INTEGER,
  made_ms INTEGER NOT NULL, revoked_at INTEGER, reason TEXT, revocation BLOB, made_n INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE deliveries (
  id TEXT NOT NULL, node_key TEXT NOT NULL, revision INTEGER NOT NULL, revoked INTEGER NOT NULL, PRIMARY KEY (id, node_key)
) STRICT, WITHOUT ROWID;
CREATE TABLE leases (node_key TEXT PRIMARY KEY, at INTEGER NOT NULL, statement BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE pins (address TEXT PRIMARY KEY, node_key TEXT NOT NULL, pinned_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// Whether the tables were made by this version of the code.
pub(super) fn is_current(conn: &Connection) -> rusqlite::Result<bool> {
    if !conn.table_exists(None, "projection")? {
        return Ok(false);
    }
    let found = conn.query_row("SELECT version FROM projection", [], |row| row.get::<_, i64>(0)).optional()?;
    Ok(found == Some(VERSION))
}

/// How far the tables have come, `None` if there are none. What stands in the tail is in them.
pub(super) fn cursor(conn: &Connection) -> rusqlite::Result<Option<i64>> {
    match conn.prepare_cached("SELECT max(cursor, coalesce((SELECT max(pos) FROM recent), 0)) FROM projection") {
        Ok(mut statement) => statement.query_row([], |row| row.get(0)).optional(),
        Err(error) if conn.table_exists(None, "projection")? => Err(error),
        Err(_) => Ok(None),
    }
}

/// Says how far the tables have come where the tail does not.
pub(super) fn set_cursor(conn: &Connection, pos: i64) -> rusqlite::Result<()> {
    run(conn, "UPDATE projection SET cursor = ?1", [pos])
}

/// Drops the tables and makes them again; `reader` opens another connection to the same file, where all spans are committed. Returns how
/// many spans were read.
pub(super) fn rebuild(conn: &Connection, reader: Option<Reader<'_>>) -> rusqlite::Result<u64> {
    // Of earlier versions, too.
    for table in TABLES.iter().map(|table| table.name).chain(places::TABLES).chain(["heads", "projection"]) {
        conn.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
    }
    create(conn)?;
    // Who alone wrote built on nobody else's spans, and none is looked up while the tables are made.
    let alone = "SELECT (SELECT min(author) FROM spans) IS (SELECT max(author) FROM spans) AND NOT EXISTS (SELECT 1 FROM withheld)";
    let alone: bool = conn.query_row(alone, [], |row| row.get(0))?;
    if !alone {
        places::gather_ids(conn)?;
    }
    // In the order of their clocks no span is late, and a span still comes after what it builds on.
    let sql = "SELECT pos, id, bytes FROM spans ORDER BY ms, n, author";
    let mut projector = Projector::new(conn, conn, Marks::Tail);
    let seen = match reader {
        Some(reader) => projector.read_beside(sql, reader)?,
        None => projector.read(sql, 0)?,
    };
    if alone { places::merge(conn) } else { places::merge_keys(conn) }?;
    set_cursor(conn, last_pos(conn)?)?;
    Ok(seen)
}

/// Makes empty tables.
pub(super) fn create(conn: &Connection) -> rusqlite::Result<()> {
    for schema in [SCHEMA, places::SCHEMA, peers::SCHEMA, devices::SCHEMA, resources::SCHEMA] {
        conn.execute_batch(schema)?;
    }
    conn.execute("INSERT INTO projection (version, cursor) VALUES (?1, 0)", [VERSION]).map(drop)
}

/// Reads the spans after the cursor into the tables.
pub(super) fn advance(conn: &Connection) -> rusqlite::Result<u64> {
    let after = cursor(conn)?.unwrap_or(0);
    let mut projector = Projector::for_arrivals(conn, after)?;
    let seen = projector.read("SELECT pos, id, bytes FROM spans WHERE pos > ?1 ORDER BY pos", after)?;
    projector.settle()?;
    set_cursor(conn, last_pos(conn)?)?;
    Ok(seen)
}

/// The position of the newest span, 0 if there is none.
pub(super) fn last_pos(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached("SELECT coalesce(max(pos), 0) FROM spans")?.query_row([], |row| row.get(0))
}

/// What a span's place in the order is: its clock, then its author's name.
pub(super) type Stamp = (i64, i64, String);

fn stamp(span: &Span) -> Stamp {
    (int(span.hlc.ms), int(span.hlc.n), span.author.to_string())
}

/// A span, and what is made of it before it comes to the tables: on another processor where there are many.
pub(super) struct Ready {
    pub(super) span: Span,
    /// Its id as text.
    pub(super) id: String,
    /// The digest of its key.
    key: Option<[u8; 16]>,
}

impl Ready {
    pub(super) fn new(span: Span, id: String) -> Ready {
        let key = keys::of(&span).map(|key| keys::digest(&key));
        Ready { span, id, key }
    }
}

/// Opens a connection.
pub(super) type Reader<'a> = &'a (dyn Fn() -> rusqlite::Result<Connection> + Sync);
/// Position, id and bytes of a span.
type Stored = (i64, String, Vec<u8>);

/// A row of these, and how large it is.
fn stored(row: &Row<'_>) -> rusqlite::Result<(Stored, usize)> {
    let bytes: Vec<u8> = row.get(2)?;
    let size = bytes.len();
    Ok(((row.get(0)?, row.get(1)?, bytes), size))
}

fn ready((pos, id, bytes): Stored) -> (i64, Option<Ready>) {
    (pos, Span::decode(&bytes).ok().map(|span| Ready::new(span, id)))
}

/// What becomes of the places of spans.
pub(super) enum Marks {
    /// They wait in the tail.
    Tail,
    /// They go into the indexes at once.
    Indexed,
    /// They are added up, to be compared with what is there.
    Compared(Box<Sums>),
}

/// An author as the projector knows it.
struct Author {
    /// Its number.
    chain: i64,
    /// Its highest number so far.
    seq: i64,
}

/// Carries spans into tables.
pub(super) struct Projector<'c> {
    /// Where the tables are.
    tables: &'c Connection,
    /// Where the spans and their places are; not the same when the tables are made again for comparison.
    spans: &'c Connection,
    marks: Marks,
    /// What the indexes lack where the spans are.
    tail: Tail,
    authors: HashMap<B64<32>, Author>,
    /// The newest of all so far; none where spans come in order anyway.
    newest: Option<Stamp>,
    /// Keys of which a span came late.
    late: BTreeSet<String>,
}

impl<'c> Projector<'c> {
    /// For spans that come in the order of their clocks.
    pub(super) fn new(tables: &'c Connection, spans: &'c Connection, marks: Marks) -> Projector<'c> {
        Projector { tables, spans, marks, tail: Tail::default(), authors: HashMap::new(), newest: None, late: BTreeSet::new() }
    }

    /// For spans that come to those up to `after`, in any order in which each stands after what it builds on; [`Projector::settle`] is
    /// called at the end.
    pub(super) fn for_arrivals(conn: &'c Connection, after: i64) -> rusqlite::Result<Projector<'c>> {
        places::merge(conn)?;
        let sql = "SELECT ms, n, author FROM spans WHERE pos <= ?1 ORDER BY ms DESC, n DESC, author DESC LIMIT 1";
        let newest = conn.query_row(sql, [after], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
        Ok(Projector::new(conn, conn, Marks::Indexed).after(newest))
    }

    /// For all spans of a file in the order in which they stand there, into other tables.
    pub(super) fn for_comparison(tables: &'c Connection, spans: &'c Connection) -> Projector<'c> {
        Projector::new(tables, spans, Marks::Compared(Box::default())).after(None)
    }

    fn after(mut self, newest: Option<Stamp>) -> Projector<'c> {
        self.newest = Some(newest.unwrap_or((-1, 0, String::new())));
        self
    }

    /// Applies what a query finds; decoding is done on all processors.
    fn read(&mut self, sql: &str, after: i64) -> rusqlite::Result<u64> {
        let mut statement = self.spans.prepare(sql)?;
        let mut rows = if statement.parameter_count() == 1 { statement.query([after])? } else { statement.query([])? };
        let mut seen = 0;
        parallel::in_order(|| rows.next()?.map(stored).transpose(), ready, |found| self.take(found, &mut seen))?;
        Ok(seen)
    }

    /// As [`Projector::read`], with another connection on another processor.
    fn read_beside(&mut self, sql: &str, reader: Reader<'_>) -> rusqlite::Result<u64> {
        let mut seen = 0;
        let produce = |give: &mut dyn FnMut(Stored, usize) -> bool| {
            let conn = reader()?;
            let mut statement = conn.prepare(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (item, size) = stored(row)?;
                if !give(item, size) {
                    break;
                }
            }
            Ok(())
        };
        parallel::in_order_from(produce, ready, |found| self.take(found, &mut seen))?;
        Ok(seen)
    }

    /// A span that cannot be read is for `verify` to report; the others still count.
    fn take(&mut self, (pos, ready): (i64, Option<Ready>), seen: &mut u64) -> rusqlite::Result<()> {
        *seen += 1;
        ready.map_or(Ok(()), |ready| self.apply(pos, &ready))
    }

    /// What one span changes. A body that its kind does not allow, from another version perhaps, changes nothing.
    pub(super) fn apply(&mut self, pos: i64, ready: &Ready) -> rusqlite::Result<()> {
        let Ready { span, id, key } = ready;
        let seq = int(span.seq);
        let author = match self.authors.entry(span.author) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Author { chain: dag::chain_of(self.tables, &span.author.to_string())?, seq: -1 }),
        };
        let in_its_chain = seq > author.seq;
        author.seq = author.seq.max(seq);
        dag::learn(self.tables, self.spans, author.chain, span)?;
        let mark = Mark { pos, id, key: *key, chain: author.chain, seq };
        match &mut self.marks {
            Marks::Tail => places::append(self.tables, &mark)?,
            Marks::Indexed => places::insert(self.tables, &mark)?,
            Marks::Compared(sums) => sums.add(&mark, &span.author),
        }
        let Some(key) = key else { return Ok(()) };
        if self.is_late(key, pos, span, in_its_chain)?
            && !peers::takes_any_order(&span.kind)
            && let Some(key) = keys::of(span)
        {
            self.late.insert(key);
            return Ok(());
        }
        change(self.tables, id, span)
    }

    /// Whether a later span about the key has come already. Where all are there from the beginning, one that stands behind may be taken
    /// for one: its key is read anew for nothing.
    fn is_late(&mut self, key: &[u8; 16], pos: i64, span: &Span, in_its_chain: bool) -> rusqlite::Result<bool> {
        let Some(newest) = &mut self.newest else { return Ok(false) };
        let stamp = stamp(span);
        let known = |late: &BTreeSet<String>| !late.is_empty() && keys::of(span).is_some_and(|key| late.contains(&key));
        if stamp > *newest {
            *newest = stamp;
            return Ok(known(&self.late));
        }
        if known(&self.late) {
            return Ok(true);
        }
        // For comparison later ones of its own author are there already, and come in their turn.
        let apart = in_its_chain && matches!(self.marks, Marks::Compared(_));
        let own = if apart { dag::find_chain(self.spans, &stamp.2)? } else { None };
        self.tail.refresh(self.spans)?;
        let rivals = dag::newest_of_each(Keyed { tables: self.spans, tail: &self.tail }, key)?;
        for rival in rivals.iter().filter(|rival| rival.pos != pos && own != Some(rival.chain)) {
            let sql = "SELECT ms, n, author FROM spans WHERE pos = ?1";
            let found: Option<Stamp> =
                self.spans.prepare_cached(sql)?.query_row([rival.pos], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
            if found.is_some_and(|found| found > stamp) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The places that were added up.
    pub(super) fn sums(&self) -> Option<&Sums> {
        if let Marks::Compared(sums) = &self.marks { Some(sums) } else { None }
    }

    /// Reads the keys anew of which a span came late.
    pub(super) fn settle(&mut self) -> rusqlite::Result<()> {
        for key in std::mem::take(&mut self.late) {
            clear(self.tables, &key)?;
            for pos in self.in_time(&keys::digest(&key))? {
                let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?));
                let (id, bytes) = self.spans.prepare_cached("SELECT id, bytes FROM spans WHERE pos = ?1")?.query_row([pos], row)?;
                if let Ok(span) = Span::decode(&bytes) {
                    change(self.tables, &id, &span)?;
                }
            }
        }
        Ok(())
    }

    /// Positions of the spans of a key, in the order in which they are read.
    fn in_time(&mut self, key: &[u8; 16]) -> rusqlite::Result<Vec<i64>> {
        self.tail.refresh(self.spans)?;
        let mut all: Vec<i64> = self.tail.about(key).map(|place| place.pos).collect();
        for pos in self.spans.prepare_cached("SELECT pos FROM keys WHERE key = ?1")?.query_map([key], |row| row.get(0))? {
            all.push(pos?);
        }
        let mut found: Vec<(Stamp, i64)> = Vec::with_capacity(all.len());
        let mut stamps = self.spans.prepare_cached("SELECT ms, n, author FROM spans WHERE pos = ?1")?;
        for pos in all {
            // An index that was tampered with may name what is not there; `verify` tells.
            let stamp = stamps.query_row([pos], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
            found.extend(stamp.map(|stamp| (stamp, pos)));
        }
        found.sort();
        Ok(found.into_iter().map(|(_, pos)| pos).collect())
    }
}

/// Removes all that the tables say of a key.
fn clear(conn: &Connection, key: &str) -> rusqlite::Result<()> {
    let Some((noun, name)) = key.split_once('/') else { return Ok(()) };
    for table in &TABLES {
        if let Some((_, column)) = table.key.filter(|(about, _)| *about == noun) {
            run(conn, &format!("DELETE FROM {} WHERE {column} = ?1", table.name), [name])?;
        }
    }
    Ok(())
}
