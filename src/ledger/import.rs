//! Taking in what another device, or a backup, exported: all of it or nothing, and every line checked as if it came from an enemy.

use super::append::insert;
use super::audience::is_private;
use super::kinds::{self, Body};
use super::lines::{Header, Line, Lines, Trailer, Withheld};
use super::project::{Projector, Ready};
use super::span::{self, B64, Span, SpanId};
use super::{Hlc, Ledger, admit, dag, devices, parallel, parse_id, places, project, signatures, store, unsigned};
use crate::config::time;
use crate::error::{Code, Error, Result};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::Serialize;
use std::collections::HashMap;
use std::io::BufRead;

/// What was taken in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Spans that were new here.
    pub spans: u64,
    /// Links of withheld spans that were new here.
    pub withheld: u64,
    /// Lines whose span or link was here already.
    pub known: u64,
    /// Whose ledger it is.
    pub identity: B64<32>,
    /// The audience that it was exported for.
    #[serde(rename = "for")]
    pub audience: String,
}

impl Ledger {
    /// Takes in an export. `device` is this device's key, if it has one: what is private to another device is kept as a link only.
    /// With `dry_run`, everything is checked and nothing stays. Any bad line refuses all and is named.
    pub fn import(&self, from: impl BufRead, device: Option<[u8; 32]>, dry_run: bool) -> Result<Imported> {
        let owner = self.identity()?;
        let fail = |error| store::failed(self.path(), "import into", error);
        let mut lines = Lines::new(from);
        let header = match lines.next().map_err(|error| at(1, &error))? {
            Some(line) => Header::decode(line).map_err(|error| at(1, &error))?,
            None => return Err(at(1, &Error::new(Code::BadBlob, "it is empty"))),
        };
        let conn = self.conn();
        let tx = Transaction::new_unchecked(&conn, TransactionBehavior::Immediate).map_err(fail)?;
        project::advance(&tx).map_err(fail)?;
        let mut taker = Taker::new(&tx, &header, device).map_err(fail)?;
        parallel::pieces(
            || next(&mut lines),
            check_piece,
            |piece: Vec<(u64, Result<Checked>)>| {
                piece.into_iter().try_for_each(|(number, line)| line.and_then(|line| taker.take(line)).map_err(|error| at(number, &error)))
            },
        )?;
        let imported = taker.finish().map_err(|error| at(lines.number.saturating_sub(1), &error))?;
        taker.one_owner(owner)?;
        taker.settle().map_err(fail)?;
        if !dry_run {
            tx.commit().map_err(fail)?;
        }
        Ok(imported)
    }
}

/// What is wrong, and in which line.
fn at(number: u64, error: &Error) -> Error {
    let hint =
        error.hint_text().unwrap_or("nothing was taken in; make a new one on the other device: portdistrict ledger export").to_owned();
    let mut named = Error::new(error.code(), format!("line {number} of the export is refused: {}", error.message()));
    for cause in error.causes() {
        named = named.because(cause.clone());
    }
    named.hint(hint)
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Code::BadBlob, what)
}

/// A line as it was read; with the digest of everything before it if it claims to be the last.
type Read = (u64, Result<Vec<u8>>, Option<[u8; 32]>);

/// A line that holds by itself.
enum Checked {
    Span {
        id: SpanId,
        signature: [u8; 64],
        ready: Box<Ready>,
        bytes: Vec<u8>,
    },
    Withheld(Withheld),
    /// The last line, and the digest that it should state.
    Trailer(Trailer, [u8; 32]),
}

fn next<R: BufRead>(lines: &mut Lines<R>) -> Result<Option<(Read, usize)>> {
    let line = match lines.next() {
        Ok(None) => return Ok(None),
        Ok(Some(line)) => Ok(line.to_vec()),
        // Refused in its turn, so that the first bad line is the one that is named; nothing is read after it.
        Err(error) => Err(error),
    };
    let last = line.as_ref().is_ok_and(|line| line.starts_with(b"{\"blake3\":"));
    let digest = last.then(|| *lines.digest.finalize().as_bytes());
    let size = line.as_ref().map_or(0, Vec::len);
    Ok(Some(((lines.number, line, digest), size)))
}

fn check_piece(piece: Vec<Read>) -> Vec<(u64, Result<Checked>)> {
    let mut checked: Vec<_> =
        piece.into_iter().map(|(number, line, digest)| (number, line.and_then(|line| check_alone(&line, digest)))).collect();
    let asked: Vec<_> = checked.iter().filter_map(|(_, line)| line.as_ref().ok()?.signed()).collect();
    if !signatures::all_hold(&asked) {
        for (_, line) in &mut checked {
            let signed = line.as_ref().ok().and_then(Checked::signed);
            if signed.is_some_and(|(author, id, signature)| !span::signed(&author, &id, &signature)) {
                *line = Err(bad("its signature does not hold"));
            }
        }
    }
    checked
}

fn check_alone(line: &[u8], digest: Option<[u8; 32]>) -> Result<Checked> {
    match Line::decode(line)? {
        Line::Withheld(link) => Ok(Checked::Withheld(link)),
        Line::Trailer(trailer) => digest.map(|digest| Checked::Trailer(trailer, digest)).ok_or_else(|| bad("it is no last line")),
        Line::Span { id, signature, bytes } => {
            if span::id_of(&bytes) != id {
                return Err(bad("its span was changed: it does not have its id"));
            }
            let span = Span::decode(&bytes).map_err(|error| bad(error.to_string()))?;
            Ok(Checked::Span { id, signature: signature.0, ready: Box::new(Ready::new(span, id.to_string())), bytes })
        }
    }
}

impl Checked {
    /// Who signed what, if anybody did.
    fn signed(&self) -> Option<signatures::Asked> {
        match self {
            Checked::Span { id, signature, ready, .. } => Some((ready.span.author, *id, *signature)),
            Checked::Withheld(link) => Some((link.author, link.id, link.signature.0)),
            Checked::Trailer(..) => None,
        }
    }
}

/// The last line of an author so far.
#[derive(Clone, Copy)]
struct Tip {
    seq: u64,
    id: SpanId,
    hlc: Option<Hlc>,
}

/// Takes line after line into the open transaction.
struct Taker<'c> {
    tx: &'c Connection,
    projector: Projector<'c>,
    header: &'c Header,
    device: Option<B64<32>>,
    now_ms: u64,
    pos: i64,
    tips: HashMap<B64<32>, Tip>,
    /// Of devices that were asked for: whether they were revoked, and the number of the last span that counts, if one does.
    revoked: HashMap<B64<32>, Option<Option<u64>>>,
    /// By which identities the chains are certified, and in which line.
    identities: Vec<(u64, B64<32>)>,
    /// Which identity took the place of which, here and in the lines.
    rotations: Vec<(B64<32>, B64<32>)>,
    /// The newest span so far, by the order of an export.
    newest: Option<(Hlc, String)>,
    lines: u64,
    ended: bool,
    done: Imported,
}

impl<'c> Taker<'c> {
    fn new(tx: &'c Connection, header: &'c Header, device: Option<[u8; 32]>) -> rusqlite::Result<Taker<'c>> {
        let last = project::last_pos(tx)?;
        Ok(Taker {
            tx,
            projector: Projector::for_arrivals(tx, last)?,
            header,
            device: device.map(B64),
            now_ms: time::now_ms(),
            pos: last + 1,
            tips: HashMap::new(),
            revoked: HashMap::new(),
            identities: Vec::new(),
            rotations: devices::all_rotations(tx)?,
            newest: None,
            lines: 0,
            ended: false,
            done: Imported { spans: 0, withheld: 0, known: 0, identity: header.identity, audience: header.audience.clone() },
        })
    }

    fn take(&mut self, line: Checked) -> Result<()> {
        if self.ended {
            return Err(bad("it stands after the last line"));
        }
        match line {
            Checked::Span { id, signature, ready, bytes } => self.span(id, &signature, &ready, &bytes),
            Checked::Withheld(link) => self.withheld(&link),
            Checked::Trailer(trailer, digest) => {
                self.ended = true;
                if trailer.count != self.lines || self.lines != self.header.spans {
                    return Err(bad(format!(
                        "{} entries stand before it, the first line says {} and this one {}",
                        self.lines, self.header.spans, trailer.count
                    )));
                }
                if trailer.blake3.0 != digest { Err(bad("the lines before it are not those that were written")) } else { Ok(()) }
            }
        }
    }

    fn finish(&self) -> Result<Imported> {
        if !self.ended {
            return Err(bad("it is cut short: its last line is missing"));
        }
        for head in &self.header.heads {
            if self.link(head)?.is_none() {
                return Err(bad(format!("the first line names span {head}, which is missing")));
            }
        }
        Ok(self.done.clone())
    }

    /// Ends what the tables are told.
    fn settle(&mut self) -> rusqlite::Result<()> {
        self.projector.settle()?;
        project::set_cursor(self.tx, self.pos - 1)
    }

    fn span(&mut self, id: SpanId, signature: &[u8; 64], ready: &Ready, bytes: &[u8]) -> Result<()> {
        let span = &ready.span;
        let order = (span.hlc, span.author.to_string());
        if self.newest.as_ref().is_some_and(|newest| *newest >= order) {
            return Err(bad("it is out of order, or doubled: a span of its time or later stands before it"));
        }
        self.follows(span.author, span.seq)?;
        self.certificate(span)?;
        self.rotations.extend(devices::rotation_of(span).map_err(bad)?);
        if span.hlc.is_too_far_ahead(self.now_ms) {
            let when = time::absolute(span.hlc.ms / 1000);
            return Err(Error::new(Code::Refused, format!("it is of {when}, more than 24 hours ahead of this computer's clock"))
                .hint("set the clock that is wrong: sudo timedatectl set-ntp true"));
        }
        self.builds(span)?;
        self.newest = Some(order);
        self.tips.insert(span.author, Tip { seq: span.seq, id, hlc: Some(span.hlc) });
        self.lines += 1;
        let known = self.known(span.author, span.seq, &id)?;
        if known == Known::Whole {
            self.done.known += 1;
            return Ok(());
        }
        self.not_revoked(span)?;
        if is_private(span) && self.device.is_some_and(|device| device != span.author) {
            return self.keep_link(known, span.author, span.seq, &id, signature);
        }
        self.run(|tx| insert(tx, self.pos, &ready.id, span, bytes, signature))?;
        let pos = self.pos;
        self.projector.apply(pos, ready).map_err(|error| failed(self.tx, error))?;
        self.pos += 1;
        self.done.spans += 1;
        Ok(())
    }

    fn withheld(&mut self, link: &Withheld) -> Result<()> {
        self.follows(link.author, link.seq)?;
        if link.seq == 0 {
            return Err(bad("the certificate that begins a chain is withheld"));
        }
        self.tips.insert(link.author, Tip { seq: link.seq, id: link.id, hlc: None });
        self.lines += 1;
        let known = self.known(link.author, link.seq, &link.id)?;
        self.keep_link(known, link.author, link.seq, &link.id, &link.signature.0)
    }

    fn keep_link(&mut self, known: Known, author: B64<32>, seq: u64, id: &SpanId, signature: &[u8; 64]) -> Result<()> {
        if known != Known::Nothing {
            self.done.known += 1;
            return Ok(());
        }
        let sql = "INSERT INTO withheld (id, author, seq, signature) VALUES (?1, ?2, ?3, ?4)";
        let values = params![id.to_string(), author.to_string(), i64::try_from(seq).unwrap_or(i64::MAX), signature];
        self.run(|tx| tx.prepare_cached(sql)?.execute(values))?;
        self.done.withheld += 1;
        Ok(())
    }

    /// A chain stands there whole, from its beginning, each number once.
    fn follows(&self, author: B64<32>, seq: u64) -> Result<()> {
        match self.tips.get(&author) {
            None if seq > 0 => Err(bad(format!("its author {author} is unknown: the chain does not begin before it"))),
            Some(tip) if seq != tip.seq + 1 => {
                let what = if seq <= tip.seq { "doubled or out of order" } else { "something is missing before it" };
                Err(bad(format!("it is number {seq} of its author, expected number {}: {what}", tip.seq + 1)))
            }
            _ => Ok(()),
        }
    }

    /// Its predecessor and the heads it names stand before it, and are older.
    fn builds(&self, span: &Span) -> Result<()> {
        let tip = self.tips.get(&span.author);
        if span.prev != tip.map(|tip| tip.id) {
            return Err(bad("it does not follow its author's previous span"));
        }
        let before = tip.and_then(|tip| Some((tip.id, tip.hlc?)));
        let mut known: Vec<(SpanId, Hlc)> = before.into_iter().collect();
        for dep in &span.deps {
            match self.link(dep)? {
                Some(Some(hlc)) => known.push((*dep, hlc)),
                Some(None) => {}
                None => return Err(bad(format!("it builds on span {dep}, which does not stand before it"))),
            }
        }
        match known.iter().find(|(_, hlc)| *hlc >= span.hlc) {
            Some((id, _)) => Err(bad(format!("its time is not after that of span {id}, on which it builds"))),
            None => Ok(()),
        }
    }

    /// The clock of a span that is here, an inner none for a link.
    fn link(&self, id: &SpanId) -> Result<Option<Option<Hlc>>> {
        let hlc = |row: &rusqlite::Row<'_>| Ok(Hlc { ms: unsigned(row.get(0)?), n: unsigned(row.get(1)?) });
        if let Some(found) = self.run(|tx| places::by_id(tx, id, "s.ms, s.n", hlc))? {
            return Ok(Some(Some(found)));
        }
        Ok(self.run(|tx| dag::link(tx, id))?.map(|_| None))
    }

    /// A chain begins with the certificate of its device by an identity; by whose is judged at the end.
    fn certificate(&mut self, span: &Span) -> Result<()> {
        if span.seq > 0 {
            return Ok(());
        }
        let body: kinds::IdentityCreated = match kinds::parse(&span.body) {
            Ok(body) if span.kind == kinds::IdentityCreated::KIND => body,
            _ => return Err(bad("its author's chain does not begin with a device certificate")),
        };
        if body.device != span.author || !admit::certified(&body) {
            return Err(bad("its author's device certificate does not hold"));
        }
        // The first line of an export is its header.
        self.identities.push((self.lines + 2, body.identity));
        Ok(())
    }

    /// Rotations, here or in the lines, link all identities that certified a chain to the one of the first line, and that to the
    /// one of this ledger.
    fn one_owner(&self, owner: Option<B64<32>>) -> Result<()> {
        let linked = devices::linked(self.header.identity, &self.rotations);
        if owner.is_some_and(|owner| !linked.contains(&owner)) {
            return Err(Error::new(Code::Refused, "the export is of another identity's ledger").hint("portdistrict identity show"));
        }
        match self.identities.iter().find(|(_, identity)| !linked.contains(identity)) {
            Some((line, _)) => Err(at(*line, &Error::new(Code::Refused, "its author is a device of another identity"))),
            None => Ok(()),
        }
    }

    /// What is here under an author's number. Something else than what comes means that the device signed two pasts.
    fn known(&self, author: B64<32>, seq: u64, id: &SpanId) -> Result<Known> {
        let (author, seq) = (author.to_string(), i64::try_from(seq).unwrap_or(i64::MAX));
        let find = |table: &str| {
            let sql = format!("SELECT id FROM {table} WHERE author = ?1 AND seq = ?2");
            self.run(|tx| tx.prepare_cached(&sql)?.query_row((&author, seq), |row| parse_id(row.get_ref(0)?.as_str()?)).optional())
        };
        let (whole, link) = (find("spans")?, find("withheld")?);
        if let Some(other) = whole.or(link).filter(|found| found != id) {
            return Err(Error::new(Code::Refused, format!("device {author} signed two histories: here its number {seq} is {other}"))
                .hint("the device, or a copy of its folder, goes on from an old backup: find out which one is right"));
        }
        Ok(if whole.is_some() {
            Known::Whole
        } else if link.is_some() {
            Known::Link
        } else {
            Known::Nothing
        })
    }

    /// A device that was revoked says nothing more that counts.
    fn not_revoked(&mut self, span: &Span) -> Result<()> {
        if let Some((device, last)) = devices::revokes(span) {
            let known = self.revocation(device)?;
            self.revoked.insert(device, Some(known.map_or(last, |known| known.min(last))));
        }
        let refused = |what: String| Err(Error::new(Code::Refused, format!("device {} was revoked {what}", span.author)));
        match self.revocation(span.author)? {
            Some(None) => refused(format!("before any span of it was known, and this is its number {}", span.seq)),
            Some(Some(last)) if span.seq > last => refused(format!("after its number {last}, and this is its number {}", span.seq)),
            _ => Ok(()),
        }
    }

    fn revocation(&mut self, device: B64<32>) -> Result<Option<Option<u64>>> {
        if let Some(known) = self.revoked.get(&device) {
            return Ok(*known);
        }
        let known = self.run(|tx| devices::revocation(tx, &device))?;
        self.revoked.insert(device, known);
        Ok(known)
    }

    fn run<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        ask(self.tx).map_err(|error| failed(self.tx, error))
    }
}

fn failed(tx: &Connection, error: rusqlite::Error) -> Error {
    store::failed(std::path::Path::new(tx.path().unwrap_or_default()), "import into", error)
}

/// What is here of a span that comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    Link,
    Whole,
}
