//! Plans of SQLite. They depend on the schema alone: nothing here gathers statistics, and what is bound to a statement does
//! not change its plan (`ENABLE_QPSG`). They do not say where a limit applies; one anywhere in the statement counts.

use std::collections::HashMap;

use mi_store::{Arm, Db};
use sqlx::{AssertSqlSafe, Row, SqliteConnection};

use super::{Fault, Plans, Reach};
use crate::{Backend, statements::Statement};

/// The columns of the unique keys of each table.
type Keys = HashMap<String, Vec<Vec<String>>>;

pub(super) async fn look(db: &Db, plans: &Plans<'_>, found: &mut [(Statement, Vec<Fault>)]) {
    let mut conn = db.platform().read().await.expect("connects");
    let Arm::Sqlite(conn) = conn.arm() else { panic!("not SQLite") };
    let keys = keys(conn).await;
    for (statement, faults) in found.iter_mut().filter(|(statement, _)| statement.is_for(Backend::Sqlite)) {
        // No text of ours holds a semicolon.
        for part in statement.text.split(';').filter(|part| !part.trim().is_empty()) {
            let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {part}"));
            let what = match sqlx::raw_sql(explain).fetch_all(&mut *conn).await {
                Ok(rows) => {
                    let steps = rows.iter().map(|row| Step { parent: row.get(1), detail: row.get(3) });
                    judge(&steps.collect::<Vec<_>>(), part, &keys, plans)
                }
                Err(error) => vec![(error.to_string(), None)],
            };
            faults.extend(what.into_iter().map(|(what, whole)| Fault { on: "SQLite".into(), what, whole }));
        }
    }
}

struct Step {
    parent: i64,
    detail: String,
}

async fn keys(conn: &mut SqliteConnection) -> Keys {
    let sql = "SELECT t.name, i.name, c.name FROM sqlite_schema AS t
         LEFT JOIN pragma_index_list(t.name) AS i ON i.\"unique\" LEFT JOIN pragma_index_info(i.name) AS c
         WHERE t.type = 'table' ORDER BY 1, 2, c.seqno";
    let rows: Vec<(String, Option<String>, Option<String>)> =
        sqlx::query_as(sql).fetch_all(conn).await.expect("lists keys");
    let mut keys: HashMap<String, HashMap<String, Vec<String>>> = HashMap::new();
    for (table, index, column) in rows {
        let of_table = keys.entry(table).or_default();
        if let (Some(index), Some(column)) = (index, column) {
            of_table.entry(index).or_default().push(column);
        }
    }
    keys.into_iter().map(|(table, indexes)| (table, indexes.into_values().collect())).collect()
}

/// What is wrong, and which table it reads whole for an office.
fn judge(steps: &[Step], text: &str, keys: &Keys, plans: &Plans<'_>) -> Vec<(String, Option<String>)> {
    let names = names(text, keys);
    let ends = text.contains("LIMIT ") || text.contains("EXISTS ");
    let read = |step: &Step| {
        let (how, rest) = step.detail.split_once(' ')?;
        let table = *names.get(rest.split(' ').next()?).filter(|table| !plans.is_few(table))?;
        let reach = match (how, rest.split_once('(')) {
            ("SEARCH", Some((_, columns))) if columns.starts_with("rowid=") => Reach::Key,
            ("SEARCH", Some((_, columns))) => {
                let parts: Vec<&str> = columns.split(" AND ").collect();
                let equal: Vec<&str> = parts.iter().filter_map(|part| Some(part.split_once("=?")?.0)).collect();
                Reach::of(&equal, equal.len() < parts.len(), &keys[table])
            }
            ("SCAN" | "SEARCH", _) => Reach::Open,
            _ => return None,
        };
        Some((table, reach))
    };
    let mut faults = Vec::new();
    for step in steps {
        let detail = &step.detail;
        let refused = if detail.starts_with("USE TEMP B-TREE") {
            let only_the_last = detail.contains("LAST TERM") && ends;
            let beside = steps.iter().filter(|other| other.parent == step.parent && !only_the_last);
            beside.filter_map(read).find(|(_, reach)| *reach != Reach::Key)
        } else {
            let open = |(_, reach): &(&str, Reach)| matches!(reach, Reach::Open | Reach::Office) && !ends;
            read(step).filter(|read| open(read) || detail.contains("AUTOMATIC"))
        };
        if let Some((table, reach)) = refused {
            faults.push((detail.clone(), reach.is_of_one_office().then(|| table.to_owned())));
        }
    }
    faults
}

/// The tables by the names that a statement calls them by: a plan knows the second name only. Others are looked into for
/// references to what is removed, and have none then.
fn names<'a>(text: &'a str, keys: &'a Keys) -> HashMap<&'a str, &'a str> {
    let words: Vec<&str> =
        text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).collect();
    let mut names = HashMap::new();
    for (place, word) in words.iter().enumerate() {
        let Some((table, _)) = keys.get_key_value(*word) else { continue };
        names.insert(table.as_str(), table.as_str());
        let after = words[place + 1..].iter().find(|word| **word != "AS");
        // Keywords are in capitals.
        if let Some(name) = after.filter(|name| name.chars().all(|c| c.is_lowercase() || c == '_')) {
            names.insert(name, table);
        }
    }
    names
}
