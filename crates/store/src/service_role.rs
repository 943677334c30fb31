//! The role that services work as on Postgres: it owns nothing and no policy lets it past.
//!
//! The user of `--database` makes schema and tables and so owns them; the pool's connections take this role when they
//! start. The role is there once for a server: other processes, and other databases, may make it at the same moment.

use std::time::Duration;

use mi_kernel::{Error, Result};
use sqlx::PgPool;

use crate::DbError;

/// Its name.
pub(crate) const NAME: &str = "mi_service";

const REASON: &str = "DATABASE_ROLE";
/// Other processes that change the role at the same moment are out of the way after a few tries.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(25);

/// Makes the role, and the right of this user to take it, unless both are there.
const ENSURE: &str = "DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mi_service') THEN
        CREATE ROLE mi_service NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOINHERIT;
    END IF;
    BEGIN
        SET LOCAL ROLE mi_service;
        RESET ROLE;
    EXCEPTION WHEN insufficient_privilege THEN
        GRANT mi_service TO CURRENT_USER;
    END;
END $$";

/// Lets the role work with the rows of every table of the schema but the list of migrations. Grants only what is
/// missing: a start changes nothing in the catalogue that is right already.
const GRANT: &str = "DO $$ DECLARE made record; BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('mi/service-role/' || current_schema(), 0));
    IF NOT has_schema_privilege('mi_service', current_schema(), 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO mi_service', current_schema());
    END IF;
    FOR made IN SELECT oid::regclass AS name, relkind FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relname <> '_sqlx_migrations' AND CASE relkind
            WHEN 'r' THEN NOT has_table_privilege('mi_service', oid, 'DELETE')
            WHEN 'p' THEN NOT has_table_privilege('mi_service', oid, 'DELETE')
            WHEN 'S' THEN NOT has_sequence_privilege('mi_service', oid, 'USAGE')
            ELSE FALSE END
    LOOP
        IF made.relkind = 'S' THEN
            EXECUTE format('GRANT USAGE ON SEQUENCE %s TO mi_service', made.name);
        ELSE
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO mi_service', made.name);
        END IF;
    END LOOP;
END $$";

/// What the working role is, and which tables with an office have no wall.
const INSPECT: &str = "SELECT r.rolname::text, r.rolsuper, r.rolbypassrls,
    EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = s.oid AND pg_has_role(r.oid, c.relowner, 'MEMBER')),
    ARRAY(SELECT c.relname::text FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'office_id' AND NOT a.attisdropped
        WHERE c.relnamespace = s.oid AND c.relkind IN ('r', 'p')
        AND NOT (c.relrowsecurity AND c.relforcerowsecurity
            AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'office_wall'))
        ORDER BY c.relname)
    FROM pg_roles r, pg_namespace s WHERE r.rolname = current_user AND s.nspname = current_schema()";

/// Makes the role, as the owner.
///
/// # Errors
/// `FailedPrecondition` with the statements for an administrator when this user may not.
pub(crate) async fn ensure(owner: &PgPool) -> Result<()> {
    let mut tries = 0;
    loop {
        let Err(error) = sqlx::query(ENSURE).execute(owner).await else {
            return Ok(());
        };
        tries += 1;
        let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
        match code.as_str() {
            "42501" => return Err(not_allowed(owner).await.caused_by(DbError::from(error))),
            // Somebody else made it, granted it, or was about to: look again.
            "23505" | "42710" | "XX000" if tries < TRIES => tokio::time::sleep(PAUSE).await,
            _ => return Err(DbError::from(error).into()),
        }
    }
}

async fn not_allowed(owner: &PgPool) -> Error {
    let user = sqlx::query_scalar("SELECT quote_ident(current_user)").fetch_one(owner).await;
    let user: String = user.unwrap_or_else(|_| "the_user_of_database".into());
    Error::precondition(
        REASON,
        format!(
            "the services work as the role {NAME}, which the user {user} of --database may not create or take; \
             an administrator must run once: CREATE ROLE {NAME} NOLOGIN NOSUPERUSER NOBYPASSRLS; \
             GRANT {NAME} TO {user};"
        ),
    )
}

/// Gives the role what services need, as the owner, after the migrations.
pub(crate) async fn grant(owner: &PgPool) -> Result<()> {
    Ok(sqlx::query(GRANT).execute(owner).await.map(drop).map_err(DbError::from)?)
}

/// Refuses to work as a role that policies do not hold, or with a table of offices' rows that has no wall.
///
/// # Errors
/// `FailedPrecondition`, saying what is wrong.
pub(crate) async fn verify(pool: &PgPool) -> Result<()> {
    let found = sqlx::query_as(INSPECT).fetch_one(pool).await.map_err(DbError::from)?;
    let (role, superuser, bypasses, owns, unwalled): (String, bool, bool, bool, Vec<String>) = found;
    let problem = if role != NAME {
        format!("the services would work as {role} and not as {NAME}; do not set a role for them by other means")
    } else if superuser {
        format!("the role {role} is a superuser, whom no policy holds; run: ALTER ROLE {role} NOSUPERUSER;")
    } else if bypasses {
        format!("the role {role} bypasses row-level security; run: ALTER ROLE {role} NOBYPASSRLS;")
    } else if owns {
        format!(
            "the role {role} owns tables of the platform or is a member of their owner; give them back to the owner"
        )
    } else if !unwalled.is_empty() {
        let tables = unwalled.join(", ");
        return Err(Error::precondition(
            "DATABASE_UNWALLED",
            format!(
                "offices' rows are not kept apart by row-level security in: {tables}; its policy office_wall is gone"
            ),
        ));
    } else {
        return Ok(());
    };
    Err(Error::precondition(REASON, problem))
}
