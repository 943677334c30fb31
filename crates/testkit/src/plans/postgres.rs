//! Plans of Postgres, as services get them: in their role, behind row-level security, with their settings. A statement has
//! two: one for the values at hand, with which a connection begins, and one for any values, which it may keep later.

use std::collections::HashMap;

use mi_store::{Arm, Db};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::{Fault, Plans, Reach, fill};
use crate::{Backend, statements::Statement};

/// The columns of the unique keys of each table.
const KEYS: &str = "SELECT c.relname::text, array_agg(a.attname::text) FROM pg_index i
     JOIN pg_class c ON c.oid = i.indrelid
     JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
     WHERE i.indisunique AND c.relnamespace = current_schema()::regnamespace GROUP BY i.indexrelid, c.relname";
/// What the wall between offices adds to every condition: it throws nothing away that a statement asks for.
const WALL: &str = "'mi.scope'";

/// What stands for the values of a text that is no statement.
const UNPREPARED: &str = "no values";

/// What the tables hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing, and no statistics were gathered.
    Empty,
    /// Nothing, when statistics were gathered.
    Emptied,
    /// A lot, with its statistics.
    Large,
}

/// Looks at the plans of all statements; `unpinned` is a setting that is as Postgres has it, and not as services do.
pub(super) async fn look(
    db: &Db,
    plans: &Plans<'_>,
    state: State,
    unpinned: Option<&str>,
    found: &mut [(Statement, Vec<Fault>)],
) {
    // The plans are the same in the scope of an office: what a scope is compared with is made for each row.
    let mut tx = db.platform().begin().await.expect("connects");
    let Arm::Postgres(conn) = tx.arm() else { panic!("not Postgres") };
    if let Some(pin) = unpinned {
        run(conn, format!("SET LOCAL {pin} = on")).await.expect("sets");
    }
    let rows: Vec<(String, Vec<String>)> = sqlx::query_as(KEYS).fetch_all(&mut *conn).await.expect("lists keys");
    let mut keys: HashMap<String, Vec<Vec<String>>> = HashMap::new();
    for (table, key) in rows {
        keys.entry(table).or_default().push(key);
    }
    for (statement, faults) in found.iter_mut().filter(|(statement, _)| statement.is_for(Backend::Postgres)) {
        run(conn, "SAVEPOINT before".to_owned()).await.expect("sets a savepoint");
        let explained = explained(conn, &statement.text, state).await;
        run(conn, "ROLLBACK TO SAVEPOINT before".to_owned()).await.expect("goes back");
        if explained.iter().all(|(values, _)| *values != UNPREPARED) {
            run(conn, "DEALLOCATE looked_at".to_owned()).await.expect("forgets");
        }
        for (values, plan) in explained {
            let what = match plan {
                Ok(plan) => {
                    let exists = statement.text.contains("EXISTS (");
                    let mut judge = Judge { plans, keys: &keys, state, exists, faults: Vec::new() };
                    judge.node(&plan[0]["Plan"], false);
                    judge.faults
                }
                Err(error) => vec![(error.to_string(), None)],
            };
            let on = format!("Postgres, {state:?}, {values}");
            faults.extend(what.into_iter().map(|(what, whole)| Fault { on: on.clone(), what, whole }));
        }
    }
}

async fn run(conn: &mut PgConnection, sql: String) -> sqlx::Result<Vec<sqlx::postgres::PgRow>> {
    sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(conn).await
}

/// The plans of a statement, each with the kind of values that it is for.
async fn explained(conn: &mut PgConnection, text: &str, state: State) -> Vec<(&'static str, sqlx::Result<Value>)> {
    let mut plans = Vec::new();
    let prepare = format!("PREPARE looked_at AS {text}");
    let types = "SELECT unnest(parameter_types)::text FROM pg_prepared_statements WHERE name = 'looked_at'";
    let types = match run(conn, prepare).await {
        Ok(_) => run(conn, types.to_owned()).await.expect("lists parameters"),
        Err(error) => return vec![(UNPREPARED, Err(error))],
    };
    let own: Vec<&str> = types
        .iter()
        .enumerate()
        .map(|(place, row)| fill::parameter(row.get(0), text.contains(&format!("${}::json", place + 1))))
        .collect();
    let any = vec!["NULL"; types.len()];
    let kinds = [("any values", "force_generic_plan", any), ("some values", "force_custom_plan", own)];
    // A plan for some values is made anew each time: one that an empty table gets is right as long as it is.
    for (name, mode, values) in kinds.into_iter().take(if state == State::Large { 2 } else { 1 }) {
        let values = if values.is_empty() { String::new() } else { format!("({})", values.join(", ")) };
        let explain =
            format!("SET LOCAL plan_cache_mode = {mode}; EXPLAIN (FORMAT JSON, COSTS OFF) EXECUTE looked_at {values}");
        let plan = run(conn, explain).await.map(|rows| rows[0].get(0));
        let failed = plan.is_err();
        plans.push((name, plan));
        if failed {
            break;
        }
    }
    plans
}

struct Judge<'a> {
    plans: &'a Plans<'a>,
    keys: &'a HashMap<String, Vec<Vec<String>>>,
    state: State,
    /// Whether the statement asks if something exists, which ends at the first row.
    exists: bool,
    /// What is wrong, and which table is read whole for an office.
    faults: Vec<(String, Option<String>)>,
}

impl Judge<'_> {
    /// A node of a plan; `ends`: whoever reads its rows stops early.
    fn node(&mut self, node: &Value, ends: bool) {
        let kind = text(node, "Node Type");
        self.read(node, ends);
        match kind {
            "Sort" => self.sort(node),
            "Incremental Sort" if !ends => self.sort(node),
            _ => {}
        }
        for child in children(node) {
            let relation = text(child, "Parent Relationship");
            let ends = match (kind, relation) {
                (_, "SubPlan" | "InitPlan") => self.exists && !text(child, "Subplan Name").starts_with("CTE"),
                ("Limit", _) => true,
                ("Nested Loop", "Inner") => ["Semi", "Anti"].contains(&text(node, "Join Type")),
                (
                    "Append" | "Merge Append" | "Result" | "LockRows" | "ProjectSet" | "Subquery Scan" | "WindowAgg",
                    _,
                )
                | ("Incremental Sort" | "Memoize" | "Nested Loop", _) => ends,
                _ => false,
            };
            self.node(child, ends);
        }
    }

    fn read(&mut self, node: &Value, ends: bool) {
        let Some(reach) = self.reach(node) else { return };
        let (kind, table) = (text(node, "Node Type"), text(node, "Relation Name"));
        let filters = conditions(text(node, "Filter"));
        let filters: Vec<&str> = filters.into_iter().filter(|condition| !condition.contains(WALL)).collect();
        // All that a bitmap finds is found before the first row is read.
        let all_at_once = kind == "Bitmap Heap Scan" && self.state == State::Large;
        let wrong = match reach {
            _ if kind == "Seq Scan" => true,
            Reach::Key | Reach::Equal => false,
            // All indexes with the office in front seem the same.
            Reach::Range | Reach::Office if self.state != State::Large => false,
            // And so do all there are.
            Reach::Open if self.state == State::Emptied => false,
            Reach::Range => !filters.is_empty() || ends && all_at_once,
            Reach::Office | Reach::Open => !filters.is_empty() || !ends || all_at_once,
        };
        if wrong {
            let by = [text(node, "Index Name"), text(node, "Index Cond"), text(node, "Recheck Cond")].join(" ");
            let until = if ends { "up to a limit" } else { "to its end" };
            let filter = filters.join(" AND ");
            let whole = reach.is_of_one_office().then(|| table.to_owned());
            self.faults.push((format!("{kind} on {table} by {by} {until}, filter {filter}"), whole));
        }
    }

    fn sort(&mut self, node: &Value) {
        let mut open = Vec::new();
        self.unbounded(node, &mut open);
        let Some((table, reach)) = open.first() else { return };
        let whole = (open.len() == 1 && reach.is_of_one_office()).then(|| (*table).to_owned());
        self.faults.push((format!("{} by {} of {open:?}", text(node, "Node Type"), node["Sort Key"]), whole));
    }

    /// The tables below a node of which it gets any number of rows.
    fn unbounded<'n>(&self, node: &'n Value, open: &mut Vec<(&'n str, Reach)>) {
        if text(node, "Node Type") == "Limit" {
            return;
        }
        if let Some(reach) = self.reach(node).filter(|reach| *reach != Reach::Key) {
            open.push((text(node, "Relation Name"), reach));
        }
        let beside = ["SubPlan", "InitPlan"];
        for child in children(node).iter().filter(|child| !beside.contains(&text(child, "Parent Relationship"))) {
            self.unbounded(child, open);
        }
    }

    /// How a node narrows what it reads, when it reads a table that offices grow.
    fn reach(&self, node: &Value) -> Option<Reach> {
        let (kind, table) = (text(node, "Node Type"), text(node, "Relation Name"));
        let condition = match kind {
            "Seq Scan" => "",
            "Bitmap Heap Scan" => text(node, "Recheck Cond"),
            "Index Scan" | "Index Only Scan" => text(node, "Index Cond"),
            _ => return None,
        };
        // A catalogue, such as of functions, is no table of ours.
        let keys = self.keys.get(table).filter(|_| !self.plans.is_few(table))?;
        let conditions = conditions(condition);
        let of_columns: Vec<&str> = conditions.into_iter().filter(|one| !one.ends_with(" IS NOT NULL)")).collect();
        let equal: Vec<&str> = of_columns
            .iter()
            .filter_map(|condition| condition.split_once(" = "))
            .map(|(column, _)| column.trim_matches(['(', '"']))
            .filter(|column| !column.contains(' '))
            .collect();
        Some(Reach::of(&equal, equal.len() < of_columns.len(), keys))
    }
}

fn text<'n>(node: &'n Value, name: &str) -> &'n str {
    node[name].as_str().unwrap_or_default()
}

fn children(node: &Value) -> &[Value] {
    node["Plans"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The conditions that all have to hold: `((a = $1) AND (b = $2))`.
fn conditions(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut begin) = (0, None);
    for (place, character) in text.char_indices() {
        match character {
            '(' => {
                depth += 1;
                // Within the outer pair, when it holds several.
                if depth == 2 && text.starts_with("((") && begin.is_none() {
                    begin = Some(place);
                }
            }
            ')' => {
                depth -= 1;
                if depth == 1
                    && let Some(from) = begin.take()
                {
                    parts.push(&text[from..=place]);
                }
            }
            _ => {}
        }
    }
    if parts.is_empty() && !text.is_empty() { vec![text] } else { parts }
}

#[cfg(test)]
mod tests {
    use super::conditions;

    #[test]
    fn conditions_are_told_apart() {
        let check = |text: &str, expected: &[&str]| assert_eq!(conditions(text), expected, "{text}");
        check("", &[]);
        check("(office_id = $1)", &["(office_id = $1)"]);
        check("((office_id = $1) AND (id < $2))", &["(office_id = $1)", "(id < $2)"]);
        check("((a = $1) AND (ROW(b, c) < ROW($2, $3)))", &["(a = $1)", "(ROW(b, c) < ROW($2, $3))"]);
    }
}
