//! Names as small numbers: aggregates, types and sources repeat, so rows and indexes hold a number for each.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::str::FromStr;

use rusqlite::{Connection, OptionalExtension as _};

use super::ModelError;

/// One table of names and the part of it that was used lately.
pub(super) struct Names<T> {
    table: &'static str,
    numbers: HashMap<T, i64>,
    names: HashMap<i64, T>,
}

/// A cache that grew to this is emptied: names that repeat come back at once, and memory stays bounded.
const CACHED_MAX: usize = 50_000;

impl<T: FromStr<Err: Display> + Display + Clone + Eq + Hash> Names<T> {
    pub(super) fn new(table: &'static str) -> Self {
        Self { table, numbers: HashMap::new(), names: HashMap::new() }
    }

    /// The number of a name, if it has one.
    pub(super) fn find(&mut self, conn: &Connection, name: &T) -> Result<Option<i64>, ModelError> {
        if let Some(number) = self.numbers.get(name) {
            return Ok(Some(*number));
        }
        let sql = format!("SELECT id FROM {} WHERE name = ?1", self.table);
        let number = conn.prepare_cached(&sql)?.query_row([name.to_string()], |row| row.get(0)).optional()?;
        if let Some(number) = number {
            self.remember(name.clone(), number);
        }
        Ok(number)
    }

    /// The number of a name, given now if it has none. Roll back, and [`Self::forget`] must follow.
    pub(super) fn number(&mut self, conn: &Connection, name: &T) -> Result<i64, ModelError> {
        if let Some(number) = self.find(conn, name)? {
            return Ok(number);
        }
        conn.prepare_cached(&format!("INSERT INTO {} (name) VALUES (?1)", self.table))?.execute([name.to_string()])?;
        let number = conn.last_insert_rowid();
        self.remember(name.clone(), number);
        Ok(number)
    }

    /// The name behind a number.
    pub(super) fn name(&mut self, conn: &Connection, number: i64) -> Result<T, ModelError> {
        if let Some(name) = self.names.get(&number) {
            return Ok(name.clone());
        }
        let sql = format!("SELECT name FROM {} WHERE id = ?1", self.table);
        let name: String = conn.prepare_cached(&sql)?.query_row([number], |row| row.get(0))?;
        let name: T = name.parse().map_err(ModelError::corrupt)?;
        self.remember(name.clone(), number);
        Ok(name)
    }

    pub(super) fn forget(&mut self) {
        self.numbers.clear();
        self.names.clear();
    }

    fn remember(&mut self, name: T, number: i64) {
        if self.numbers.len() >= CACHED_MAX || self.names.len() >= CACHED_MAX {
            self.forget();
        }
        self.numbers.insert(name.clone(), number);
        self.names.insert(number, name);
    }
}
