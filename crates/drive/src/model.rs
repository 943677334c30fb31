//! Files of a drive, and their changes.

use mi_kernel::Time;
use mi_store::FromRow;
use strum::{EnumString, IntoStaticStr};

/// A file of the drive, without its content.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct FileRow {
    /// Where it is, without a leading slash.
    pub path: String,
    /// Bytes of its content.
    pub size: i64,
    /// Of the content, lower-case hex.
    pub sha256: String,
    /// The drive's revision that it was written with.
    pub revision: i64,
    /// Media type, as whoever wrote it said.
    pub content_type: String,
    /// When it was written.
    pub modified_at: Time,
    /// Name of an agent, or `operator`.
    pub modified_by: String,
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Kind {
    /// It is there since.
    Created,
    /// Its content was replaced.
    Updated,
    /// It is gone.
    Deleted,
}

impl Kind {
    /// The name in the database.
    pub(super) fn as_str(self) -> &'static str {
        self.into()
    }
}

impl TryFrom<String> for Kind {
    type Error = strum::ParseError;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

/// A change, and the file as it left it; of a deletion, as it was before, with the revision of the deletion.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub(super) struct Change {
    /// What happened.
    #[sqlx(try_from = "String")]
    pub(super) kind: Kind,
    /// To which file.
    #[sqlx(flatten)]
    pub(super) file: FileRow,
}
