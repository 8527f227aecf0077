//! What was made at providers, from the intent on: what spans come to, and answers.

use super::Ledger;
use super::kinds::{self, Body, ResourceIntended, ResourceMade, ResourceRemoved};
use super::query::from_json;
use super::span::Span;
use crate::error::Result;
use rusqlite::{Connection, Row, params};
use serde::Serialize;
use serde_json::{Map, Value};

pub(super) const SCHEMA: &str = "
CREATE TABLE resources (
  id TEXT PRIMARY KEY, act TEXT NOT NULL, provider TEXT NOT NULL, what TEXT NOT NULL, place TEXT NOT NULL, name TEXT NOT NULL,
  made INTEGER NOT NULL, detail TEXT NOT NULL, ms INTEGER NOT NULL, n INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Something at a provider that was intended and not removed since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resource {
    /// What it is made for: `machine/LABEL` or `image/NAME`.
    pub act: String,
    /// At whose place, as in `gce`.
    pub provider: String,
    /// What it is there, as in `instance`.
    pub what: String,
    /// Where it is there; may be empty.
    pub place: String,
    /// Its name there.
    pub name: String,
    /// Whether the provider is known to have made it.
    pub made: bool,
    /// What removing it needs, and what the provider said of it.
    pub detail: Map<String, Value>,
}

impl Resource {
    /// What names it everywhere: `provider/what/place/name`.
    pub fn id(&self) -> String {
        [&self.provider, &self.what, &self.place, &self.name].map(String::as_str).join("/")
    }
}

impl Ledger {
    /// What may be at providers for an act, or for every act that begins like this, in the order in which it was intended.
    pub fn resources(&self, act: &str) -> Result<Vec<Resource>> {
        let sql = "SELECT act, provider, what, place, name, made, detail FROM resources
                   WHERE act = ?1 OR (substr(?1, -1) = '/' AND substr(act, 1, length(?1)) = ?1) ORDER BY ms, n, id";
        self.rows(sql, [act], resource)
    }
}

fn resource(row: &Row<'_>) -> rusqlite::Result<Resource> {
    Ok(Resource {
        act: row.get(0)?,
        provider: row.get(1)?,
        what: row.get(2)?,
        place: row.get(3)?,
        name: row.get(4)?,
        made: row.get(5)?,
        detail: from_json(row, 6)?,
    })
}

/// What a span of this noun does to the row of its key.
pub(super) fn apply(conn: &Connection, span: &Span) -> rusqlite::Result<()> {
    let int = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let json = |detail: &Map<String, Value>| serde_json::to_string(detail).unwrap_or_default();
    match span.kind.as_str() {
        ResourceIntended::KIND => with(span, |body: ResourceIntended| {
            // Said again by a second attempt, it stands where it stood: what was made first is removed last.
            conn.prepare_cached(
                "INSERT INTO resources (id, act, provider, what, place, name, made, detail, ms, n) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?8, ?9)
                 ON CONFLICT (id) DO UPDATE SET act = excluded.act, detail = excluded.detail, made = 0",
            )?
            .execute(params![
                body.id,
                body.act,
                body.provider,
                body.what,
                body.place,
                body.name,
                json(&body.detail),
                int(span.hlc.ms),
                int(span.hlc.n)
            ])
        }),
        ResourceMade::KIND => with(span, |body: ResourceMade| {
            conn.prepare_cached("UPDATE resources SET made = 1, detail = json_patch(detail, ?2) WHERE id = ?1")?
                .execute(params![body.id, json(&body.detail)])
        }),
        ResourceRemoved::KIND => {
            with(span, |body: ResourceRemoved| conn.prepare_cached("DELETE FROM resources WHERE id = ?1")?.execute([body.id]))
        }
        _ => Ok(()),
    }
}

fn with<T: Body>(span: &Span, apply: impl FnOnce(T) -> rusqlite::Result<usize>) -> rusqlite::Result<()> {
    kinds::parse::<T>(&span.body).map_or(Ok(()), |body| apply(body).map(drop))
}
