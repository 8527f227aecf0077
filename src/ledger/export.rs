//! Writing the ledger out for an audience, so that whoever reads it can check every chain without having to trust the writer.

use super::audience::{Audience, Eyes};
use super::lines::{Header, Line, Trailer, VERSION, Withheld};
use super::span::{B64, SpanId};
use super::{Ledger, log, parse_id, store, unsigned};
use crate::config::time;
use crate::encoding::json;
use crate::error::{Code, Doing, Error, Result};
use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Spans that stand there whole.
    pub spans: u64,
    /// Spans of which only the link is there.
    pub withheld: u64,
    /// Bytes before any encryption.
    pub bytes: u64,
}

impl Ledger {
    /// Writes everything that an audience may see, and links in place of the rest. Every span stands after what it builds on,
    /// in the order of clocks and authors, so that the same spans give the same lines on every device.
    pub fn export(&self, audience: &Audience, to: impl Write) -> Result<Exported> {
        let identity = self.identity()?.ok_or_else(|| Error::new(Code::Precondition, "the ledger is empty").hint("portdistrict init"))?;
        let fail = |error| store::failed(self.path(), "read", error);
        let conn = self.conn();
        // One read transaction: what is appended meanwhile is not half in it.
        let tx = conn.unchecked_transaction().map_err(fail)?;
        let eyes = Eyes::of(audience, &tx).map_err(fail)?;
        let mut writer = Writer { to, digest: blake3::Hasher::new(), done: Exported { spans: 0, withheld: 0, bytes: 0 } };
        let header = Header {
            version: VERSION,
            identity,
            audience: audience.to_string(),
            spans: entries(&tx).map_err(fail)?,
            heads: heads(&tx).map_err(fail)?,
            created: time::now_s(),
        };
        writer.line(&json::canonical(&header)?)?;
        Walk { conn: &tx, eyes: &eyes, next: BTreeMap::new() }.write(&mut writer, fail)?;
        let count = writer.done.spans + writer.done.withheld;
        let trailer = Trailer { blake3: B64(*writer.digest.finalize().as_bytes()), count };
        writer.line(&Line::Trailer(trailer).encode()?)?;
        writer.to.flush().doing("write", "the export")?;
        Ok(writer.done)
    }
}

/// How many spans and links there are; a link whose span came later counts once.
fn entries(conn: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT (SELECT count(*) FROM spans) + (SELECT count(*) FROM withheld w
               WHERE NOT EXISTS (SELECT 1 FROM spans s WHERE s.author = w.author AND s.seq = w.seq))";
    conn.query_row(sql, [], |row| row.get(0)).map(unsigned)
}

fn heads(conn: &Connection) -> rusqlite::Result<Vec<SpanId>> {
    let mut heads: Vec<SpanId> = super::dag::heads(conn)?.into_iter().map(|(_, id)| id).collect();
    heads.sort_unstable();
    Ok(heads)
}

struct Writer<W> {
    to: W,
    digest: blake3::Hasher,
    done: Exported,
}

impl<W: Write> Writer<W> {
    fn line(&mut self, line: &[u8]) -> Result<()> {
        self.to.write_all(line).and_then(|()| self.to.write_all(b"\n")).doing("write", "the export")?;
        self.digest.update(line).update(b"\n");
        self.done.bytes += line.len() as u64 + 1;
        Ok(())
    }
}

/// Goes through the spans in their order; links are put in directly before the first span that needs them.
struct Walk<'c> {
    conn: &'c Connection,
    eyes: &'c Eyes,
    /// Of each author the number that comes next.
    next: BTreeMap<String, i64>,
}

impl Walk<'_> {
    fn write<W: Write>(mut self, writer: &mut Writer<W>, fail: impl Fn(rusqlite::Error) -> Error + Copy) -> Result<()> {
        let mut statement = self.conn.prepare("SELECT pos FROM spans ORDER BY ms, n, author").map_err(fail)?;
        let mut rows = statement.query([]).map_err(fail)?;
        while let Some(row) = rows.next().map_err(fail)? {
            let pos = row.get(0).map_err(fail)?;
            let Some(entry) = log::at(self.conn, self.eyes, pos).map_err(fail)? else { continue };
            for dep in &entry.span.deps {
                if let Some((author, seq)) = super::dag::link(self.conn, dep).map_err(fail)? {
                    self.links(&author, seq, writer, fail)?;
                }
            }
            let (author, seq) = (entry.span.author.to_string(), i64::try_from(entry.span.seq).unwrap_or(i64::MAX));
            self.links(&author, seq - 1, writer, fail)?;
            self.next.insert(author, seq + 1);
            writer.line(&Line::Span { id: entry.id, signature: entry.signature, bytes: entry.bytes }.encode()?)?;
            writer.done.spans += 1;
        }
        let sql = "SELECT author, max(seq) FROM (SELECT author, seq FROM spans UNION ALL SELECT author, seq FROM withheld) GROUP BY author ORDER BY 1";
        let mut statement = self.conn.prepare(sql).map_err(fail)?;
        let ends = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))).map_err(fail)?;
        for end in ends {
            let (author, seq) = end.map_err(fail)?;
            self.links(&author, seq, writer, fail)?;
        }
        Ok(())
    }

    /// Links for what an author's chain lacks up to a number.
    fn links<W: Write>(&mut self, author: &str, upto: i64, writer: &mut Writer<W>, fail: impl Fn(rusqlite::Error) -> Error) -> Result<()> {
        let from = self.next.get(author).copied().unwrap_or(0);
        for seq in from..=upto {
            let Some(link) = self.link(author, seq).map_err(&fail)? else {
                return Err(
                    Error::new(Code::Ledger, format!("span {seq} of author {author} is missing")).hint("portdistrict ledger verify")
                );
            };
            writer.line(&Line::Withheld(link).encode()?)?;
            writer.done.withheld += 1;
            self.next.insert(author.to_owned(), seq + 1);
        }
        Ok(())
    }

    fn link(&self, author: &str, seq: i64) -> rusqlite::Result<Option<Withheld>> {
        let sql = "SELECT id, signature FROM spans WHERE author = ?1 AND seq = ?2
                   UNION ALL SELECT id, signature FROM withheld WHERE author = ?1 AND seq = ?2 LIMIT 1";
        let read = |row: &rusqlite::Row<'_>| {
            let id = parse_id(row.get_ref(0)?.as_str()?)?;
            Ok(Withheld { author: parse_id(author)?, id, seq: unsigned(seq), signature: B64(row.get(1)?) })
        };
        self.conn.prepare_cached(sql)?.query_row((author, seq), read).optional()
    }
}
