//! What may be written to the drive when.

use std::time::Duration;

use mi_kernel::{Error, ErrorKind, Result, text::drive_path};
use mi_proto::v1;
use mi_tenancy::{Office, State};

use super::{DriveLimits, model::FileRow, repo::Usage};

/// Longest media type, in bytes.
const MAX_CONTENT_TYPE: usize = 255;
const DEFAULT_CONTENT_TYPE: &str = "application/octet-stream";
/// When a full drive is worth another try: somebody has to make room.
const FULL_RETRY: Duration = Duration::from_secs(60);

/// What must be so for a file to be written or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// The file is at this revision; 0: there is none.
    Revision(i64),
    /// Nothing.
    Force,
}

impl Condition {
    pub(super) fn parse(if_revision: i64, force: bool) -> Result<Self> {
        match if_revision {
            _ if force => Ok(Self::Force),
            0.. => Ok(Self::Revision(if_revision)),
            _ => Err(Error::invalid("if_revision", "must not be negative")),
        }
    }

    pub(super) fn check(self, current: Option<&FileRow>) -> Result<()> {
        let conflict = |message: String| Err(Error::precondition("REVISION_CONFLICT", message));
        match (self, current) {
            (Self::Force, _) | (Self::Revision(0), None) => Ok(()),
            (Self::Revision(given), Some(file)) if given == file.revision => Ok(()),
            (Self::Revision(0), Some(file)) => conflict(format!(
                "{:?} is there already, at revision {}; send that as if_revision if it is what you read, or force",
                file.path, file.revision
            )),
            (Self::Revision(given), Some(file)) => conflict(format!(
                "{:?} is at revision {}, not {given}: it was changed meanwhile; read it again, or send force",
                file.path, file.revision
            )),
            (Self::Revision(given), None) => conflict(format!(
                "the file is not there (revision 0), so it is not at revision {given}; leave if_revision out to create it"
            )),
        }
    }
}

/// Where an upload goes and on what condition.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: String,
    pub(super) content_type: String,
    pub(super) condition: Condition,
}

impl Target {
    pub(super) fn parse(header: &v1::UploadHeader) -> Result<Self> {
        let content_type = match header.content_type.as_str() {
            "" => DEFAULT_CONTENT_TYPE,
            given if given.len() <= MAX_CONTENT_TYPE && given.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => {
                given
            }
            _ => {
                let problem = format!("must be at most {MAX_CONTENT_TYPE} printable ASCII characters");
                return Err(Error::invalid("content_type", problem));
            }
        };
        Ok(Self {
            path: drive_path("path", &header.path)?.to_owned(),
            content_type: content_type.to_owned(),
            condition: Condition::parse(header.if_revision, header.force)?,
        })
    }
}

/// The drive changes only while its office is in use.
pub(super) fn writable(office: &Office) -> Result<()> {
    let refused = |problem: &str| Err(Error::precondition("OFFICE_NOT_ACTIVE", problem));
    match office.state {
        State::Active => Ok(()),
        State::Provisioning => refused("the office is still being provisioned; try again in a moment"),
        State::Suspended => refused("the office is suspended: its files can be read, not changed; resume it first"),
        State::Deleting => Err(State::deleting()),
    }
}

/// A file cannot be at this path because of that one.
pub(super) fn clash(path: &str, existing: &str) -> Error {
    let message = if path.starts_with(existing) {
        format!("{existing:?} is a file, so that nothing can be below it")
    } else {
        format!("{existing:?} is there, so that {path:?} is a directory")
    };
    Error { message, ..Error::already_exists("file", existing) }
}

/// How much an upload may bring.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    file: i64,
    /// What is left for the office's files, with the one that is replaced gone.
    office: i64,
    /// What is left in storage, where the one that is replaced stays for a while.
    storage: i64,
    limits: DriveLimits,
}

impl Room {
    pub(super) fn new(limits: DriveLimits, usage: Usage, replaced: Option<&FileRow>) -> Self {
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let most = signed(limits.office_bytes);
        let used = usage.bytes - replaced.map_or(0, |file| file.size);
        Self {
            file: signed(limits.file_bytes),
            office: most.saturating_sub(used),
            storage: most.saturating_mul(2).saturating_sub(usage.bytes + usage.trash),
            limits,
        }
    }

    /// Whether a file of this size fits.
    pub(super) fn check(&self, size: i64) -> Result<()> {
        let full = |reason, message| Err(Error::exhausted(reason, message, FULL_RETRY));
        if size > self.file {
            let most = self.limits.file_bytes;
            return full("FILE_TOO_LARGE", format!("a file may have at most {most} bytes; nothing was written"));
        }
        if size > self.office {
            let most = self.limits.office_bytes;
            let message =
                format!("the office's files may have {most} bytes together; delete some; nothing was written");
            return full("DRIVE_FULL", message);
        }
        if size > self.storage {
            let message = "too much was replaced or deleted in the last hour, and is kept so long for those who read it; \
                 nothing was written";
            return full("DRIVE_FULL", message.into());
        }
        Ok(())
    }
}

/// A number of bytes from a request.
pub(super) fn not_negative(field: &'static str, value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| Error::invalid(field, "must not be negative"))
}

/// The office has as many uploads under way as it may.
pub(super) fn too_many(most: usize) -> Error {
    let text = format!("an office may send {most} files at a time; try again when one of them is there");
    Error::exhausted("TOO_MANY_UPLOADS", text, Duration::from_secs(1))
}

/// All uploads together hold as much memory as they may.
pub(super) fn no_memory() -> Error {
    let text = "too much is being uploaded at the moment; nothing was written, try again in a moment";
    Error::exhausted("UPLOADS_BUSY", text, Duration::from_secs(1))
}

/// An upload that was overtaken by the sweep.
pub(super) fn expired() -> Error {
    Error::new(ErrorKind::Aborted, "UPLOAD_EXPIRED", "the upload took too long and was given up; send it again")
}

#[cfg(test)]
mod tests {
    use mi_kernel::{Clock, SystemClock};

    use super::*;

    fn file(revision: i64) -> FileRow {
        FileRow {
            path: "a".into(),
            size: 10,
            sha256: String::new(),
            revision,
            content_type: String::new(),
            modified_at: SystemClock.now(),
            modified_by: "operator".into(),
        }
    }

    #[test]
    fn a_file_is_replaced_only_by_who_read_it_or_forces() {
        let now = file(7);
        for (if_revision, force, current, refused) in [
            (0, false, None, None),
            (0, true, None, None),
            (3, true, None, None),
            (0, true, Some(&now), None),
            (7, false, Some(&now), None),
            (3, true, Some(&now), None),
            (0, false, Some(&now), Some("at revision 7")),
            (3, false, Some(&now), Some("is at revision 7, not 3")),
            (3, false, None, Some("revision 0")),
        ] {
            let checked = Condition::parse(if_revision, force).and_then(|condition| condition.check(current));
            match (checked, refused) {
                (Ok(()), None) => {}
                (Err(error), Some(told)) if error.reason == "REVISION_CONFLICT" && error.message.contains(told) => {}
                (checked, _) => panic!("{if_revision} {force} {current:?}: {checked:?}"),
            }
        }
        assert_eq!(Condition::parse(-1, false).expect_err("negative").field, Some("if_revision"));
    }

    #[test]
    fn room_counts_what_is_replaced_as_gone() {
        let limits = DriveLimits { file_bytes: 30, office_bytes: 100 };
        let refusal = |room: Room, size| room.check(size).err().map(|error| error.reason);
        let used = |bytes, trash| Usage { bytes, trash, ..Usage::default() };
        let empty = Room::new(limits, used(0, 0), None);
        assert_eq!([refusal(empty, 0), refusal(empty, 30), refusal(empty, 31)], [None, None, Some("FILE_TOO_LARGE")]);
        let full = Room::new(limits, used(95, 100), None);
        assert_eq!([refusal(full, 5), refusal(full, 6)], [None, Some("DRIVE_FULL")]);
        let replacing = Room::new(limits, used(95, 90), Some(&file(1)));
        assert_eq!([refusal(replacing, 15), refusal(replacing, 16)], [None, Some("DRIVE_FULL")]);
        // What is replaced stays in storage for a while, with what is there already.
        let replaced = Room::new(limits, used(50, 140), Some(&file(1)));
        assert_eq!([refusal(replaced, 10), refusal(replaced, 11)], [None, Some("DRIVE_FULL")]);
    }
}
