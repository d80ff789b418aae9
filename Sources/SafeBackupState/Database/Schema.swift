/// The tables, as the first migration makes them, and what later ones add. A migration is appended, never edited.
///
/// Columns `…_at` are microseconds since 1970 in UTC, columns `…_ns` are a file system's nanoseconds since 1970. Paths
/// are bytes: TEXT where they are valid UTF-8, BLOB where they are not. Inodes are unsigned numbers by their bits.
/// What a column may hold stands in its comment: CHECK constraints on words cost a third of each insert.
enum Schema {
    /// "sbkp": `file` and `sqlite3` tell what this is.
    static let applicationID: Int64 = 0x7362_6B70

    static let tables = """
        -- One fact about the file itself: 'release' (the last one that wrote it), 'clean' (the last close was whole).
        CREATE TABLE meta (
            key TEXT NOT NULL PRIMARY KEY,
            value TEXT NOT NULL
        ) STRICT, WITHOUT ROWID;

        -- The last number given. Sequences, generations and the ids of names and copies come from this one counter, so
        -- that each tells what was there before it, and none is ever given twice.
        CREATE TABLE counter (
            id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
            value INTEGER NOT NULL
        ) STRICT;
        INSERT INTO counter (id, value) VALUES (1, 0);

        -- A tree that is, or was, watched. fs_*, root_*: how the root is known again after a restart. held_*: stopped
        -- for a reason a person must see. desynced: changes may have been missed, a reconcile is due.
        CREATE TABLE source (
            id INTEGER NOT NULL PRIMARY KEY,
            uuid TEXT NOT NULL UNIQUE,
            path ANY NOT NULL UNIQUE,
            fs_type INTEGER NOT NULL,
            fs_volume TEXT,
            root_inode INTEGER NOT NULL,
            root_birth_ns INTEGER,
            held_reason TEXT,
            held_message TEXT,
            held_at INTEGER,
            desynced INTEGER NOT NULL DEFAULT 1,
            last_reconcile_at INTEGER,
            last_full_save_at INTEGER,
            active INTEGER NOT NULL DEFAULT 0
        ) STRICT;

        -- A place that copies go to. accumulated_size: bytes stored since the last check of its capacity.
        -- last_proof_at: when its sentinel was last seen. catalogue_*: the newest copy of this catalogue beside the
        -- backups, and the counter it goes up to.
        CREATE TABLE destination (
            id INTEGER NOT NULL PRIMARY KEY,
            location ANY NOT NULL UNIQUE,
            kind TEXT NOT NULL,
            sentinel_id TEXT,
            held_reason TEXT,
            held_message TEXT,
            held_at INTEGER,
            accumulated_size INTEGER NOT NULL DEFAULT 0,
            last_proof_at INTEGER,
            catalogue_exported_at INTEGER,
            catalogue_sequence INTEGER
        ) STRICT;

        -- This source is, or was, saved to this destination, under the prefix. active: the agent was told to run it.
        CREATE TABLE pair (
            source_id INTEGER NOT NULL,
            destination_id INTEGER NOT NULL,
            prefix ANY NOT NULL,
            active INTEGER NOT NULL DEFAULT 0,
            first_save_at INTEGER,
            PRIMARY KEY (source_id, destination_id)
        ) STRICT, WITHOUT ROWID;

        -- How many rows of each kind a pair has, kept in the transactions that change them, so that nobody counts a
        -- million rows each second. job_bytes: of pending and leased jobs. files: live names that are no directories.
        CREATE TABLE tally (
            source_id INTEGER NOT NULL,
            destination_id INTEGER NOT NULL,
            pending INTEGER NOT NULL,
            leased INTEGER NOT NULL,
            stuck INTEGER NOT NULL,
            job_bytes INTEGER NOT NULL,
            files INTEGER NOT NULL,
            directories INTEGER NOT NULL,
            bytes INTEGER NOT NULL,
            fuzzy INTEGER NOT NULL,
            PRIMARY KEY (source_id, destination_id)
        ) STRICT, WITHOUT ROWID;

        -- Bring this path of this source to this destination. state: 'pending', 'leased' or 'stuck'. action: 'store'
        -- or 'delete', as advice; leased_action also 'move' (from origin_path). generation: the path's newest change. not_before: the
        -- earliest next try, and of a stuck job its next daily one. settle_by: further changes move not_before no later
        -- than this; NULL: none came since the last try. backoff_until: further changes move not_before no earlier than
        -- this (a torn read, or the destination's own trouble). attempts: failures so far.
        -- The leased_ columns and those after them say what a lease committed to before anything was written (see
        -- LeasePlan); NULL without a lease, and never touched by a newer change. leased_upto: the counter at the lease.
        CREATE TABLE job (
            sequence INTEGER NOT NULL PRIMARY KEY,
            source_id INTEGER NOT NULL,
            destination_id INTEGER NOT NULL,
            path ANY NOT NULL,
            state TEXT NOT NULL,
            action TEXT NOT NULL,
            origin_path ANY,
            generation INTEGER NOT NULL,
            size INTEGER,
            is_directory INTEGER NOT NULL,
            hash_first INTEGER NOT NULL,
            first_seen_at INTEGER NOT NULL,
            not_before INTEGER NOT NULL,
            settle_by INTEGER,
            backoff_until INTEGER,
            attempts INTEGER NOT NULL DEFAULT 0,
            last_error_code TEXT,
            last_error TEXT,
            leased_generation INTEGER,
            leased_action TEXT,
            leased_at INTEGER,
            leased_upto INTEGER,
            stage_name TEXT,
            version ANY,
            version_reason TEXT,
            obstruction ANY,
            obstruction_version ANY,
            final_kind TEXT,
            final_inode INTEGER,
            final_size INTEGER,
            final_mtime_ns INTEGER
        ) STRICT;
        -- A query uses a partial index only if it repeats its condition: hence "state <> 'pending'" beside "state = …".
        -- An index costs each job time, also one that it is not in: there are few.
        CREATE UNIQUE INDEX job_path ON job (destination_id, source_id, path);
        CREATE INDEX job_pending ON job (destination_id, source_id, not_before) WHERE state = 'pending';
        CREATE INDEX job_other ON job (destination_id, state, not_before)
            WHERE state <> 'pending' OR last_error_code IS NOT NULL;

        -- One stored object. digest: SHA-256 of the stored bytes, NULL if nobody read them yet. inode, mtime_ns: of the
        -- stored file itself, NULL until it was seen. role: 'current' lies at its path's own location (a live file or a
        -- tombstone); the others lie under versions: 'kept' by policy, 'foreign' was there before us, 'inTheWay' of
        -- another kind of entry, 'lastGood' before a fuzzy or damaged one. removing: why it is being removed.
        CREATE TABLE copy (
            id INTEGER NOT NULL PRIMARY KEY,
            source_id INTEGER NOT NULL,
            destination_id INTEGER NOT NULL,
            location ANY NOT NULL,
            kind TEXT NOT NULL,
            digest BLOB,
            size INTEGER NOT NULL,
            stored_at INTEGER NOT NULL,
            inode INTEGER,
            mtime_ns INTEGER,
            role TEXT NOT NULL,
            versioned_at INTEGER,
            adopted INTEGER NOT NULL DEFAULT 0,
            fuzzy INTEGER NOT NULL DEFAULT 0,
            damaged INTEGER NOT NULL DEFAULT 0,
            removing TEXT
        ) STRICT;
        CREATE UNIQUE INDEX copy_location ON copy (destination_id, location);
        CREATE INDEX copy_removing ON copy (destination_id) WHERE removing IS NOT NULL;

        -- From began_at to ended_at (NULL: until now) the path parent/leaf was what copy_id holds (NULL: a directory, or
        -- what the backup holds no more: an ended name of another kind, several in one where they follow each other), with
        -- this fingerprint and metadata of the source. inode and ctime_ns are NULL after a recovery, until the
        -- source was compared by digest. racy: read so soon after a change that the next reconcile compares digests.
        -- end_reason: 'replaced', 'deleted', 'metadata' (the same copy goes on under the next name) or 'moved'.
        -- xattrs: for each attribute the length of its name (4 bytes, little endian), the name, and the same of its value.
        CREATE TABLE name (
            id INTEGER NOT NULL PRIMARY KEY,
            source_id INTEGER NOT NULL,
            destination_id INTEGER NOT NULL,
            parent ANY NOT NULL,
            leaf ANY NOT NULL,
            copy_id INTEGER,
            kind TEXT NOT NULL,
            inode INTEGER,
            size INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL,
            ctime_ns INTEGER,
            mode INTEGER NOT NULL,
            uid INTEGER NOT NULL,
            gid INTEGER NOT NULL,
            xattrs BLOB,
            link_target ANY,
            fuzzy INTEGER NOT NULL DEFAULT 0,
            racy INTEGER NOT NULL DEFAULT 0,
            began_at INTEGER NOT NULL,
            ended_at INTEGER,
            end_reason TEXT
        ) STRICT;
        CREATE UNIQUE INDEX name_live ON name (source_id, destination_id, parent, leaf) WHERE ended_at IS NULL;
        CREATE INDEX name_history ON name (source_id, destination_id, parent, leaf) WHERE ended_at IS NOT NULL;
        CREATE INDEX name_copy ON name (copy_id) WHERE copy_id IS NOT NULL;

        -- An entry of a source that is not saved, and why. reconcile: the one that saw it last.
        CREATE TABLE not_saved (
            source_id INTEGER NOT NULL,
            path ANY NOT NULL,
            reason TEXT NOT NULL,
            kind TEXT,
            seen_at INTEGER NOT NULL,
            reconcile INTEGER NOT NULL,
            PRIMARY KEY (source_id, path)
        ) STRICT, WITHOUT ROWID;

        -- One walk of a source that was compared with the catalogue. drift: differences that no event had told of.
        CREATE TABLE reconcile (
            id INTEGER NOT NULL PRIMARY KEY,
            source_id INTEGER NOT NULL,
            reason TEXT NOT NULL,
            began_at INTEGER NOT NULL,
            ended_at INTEGER,
            complete INTEGER NOT NULL DEFAULT 0,
            seen INTEGER NOT NULL DEFAULT 0,
            queued INTEGER NOT NULL DEFAULT 0,
            drift INTEGER NOT NULL DEFAULT 0
        ) STRICT;

        -- What a verb asks of the running agent. arguments: joined by a byte 0. Unanswered while answered_at is NULL.
        CREATE TABLE request (
            id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
            verb TEXT NOT NULL,
            arguments ANY NOT NULL,
            created_at INTEGER NOT NULL,
            taken_at INTEGER,
            answered_at INTEGER,
            answer TEXT,
            error TEXT
        ) STRICT;
        CREATE INDEX request_open ON request (id) WHERE answered_at IS NULL;

        -- What happened, for people: the newest 10,000 events.
        CREATE TABLE journal (
            id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
            at INTEGER NOT NULL,
            level TEXT NOT NULL,
            event TEXT NOT NULL,
            message TEXT NOT NULL
        ) STRICT;

        -- A copy that was removed from a destination, and why: the newest 100,000. path: the source's, where it is known.
        CREATE TABLE cleaned (
            id INTEGER NOT NULL PRIMARY KEY,
            destination_id INTEGER NOT NULL,
            path ANY,
            location ANY NOT NULL,
            size INTEGER NOT NULL,
            reason TEXT NOT NULL,
            at INTEGER NOT NULL
        ) STRICT;
        """

    /// What watching at any size needs.
    static let watching = """
        -- born_ns: birth time of the source's inode, NULL where the file system keeps none. With the inode it tells
        -- whether a file that is found under another path is this one; an inode alone is given again.
        -- The index also holds ended names: a file that was renamed is often known to be gone before it is found again.
        -- linked: the source's file had other names too, by any of which it can be written without a word of this one.
        ALTER TABLE name ADD COLUMN born_ns INTEGER;
        ALTER TABLE name ADD COLUMN linked INTEGER NOT NULL DEFAULT 0;
        CREATE INDEX name_inode ON name (source_id, destination_id, inode) WHERE copy_id IS NOT NULL;

        -- origin_copy: the copy that a leased move takes to the path; origin_path had it before.
        ALTER TABLE job ADD COLUMN origin_copy INTEGER;

        -- touched: something else than a rename was told of what is, or was, at the path since it was saved, or it was
        -- found and not told. renamed_from: of a job that is not touched, where its file lay when it was saved.
        ALTER TABLE job ADD COLUMN touched INTEGER NOT NULL DEFAULT 1;
        ALTER TABLE job ADD COLUMN renamed_from ANY;

        -- A directory of the source, which a destination may still have although nothing lies below it any more: its
        -- copies moved away, or it was deleted. It is removed there when it is empty and no live name is its own.
        CREATE TABLE vacated (
            destination_id INTEGER NOT NULL,
            source_id INTEGER NOT NULL,
            path ANY NOT NULL,
            PRIMARY KEY (destination_id, source_id, path)
        ) STRICT, WITHOUT ROWID;

        -- directories: those that are to be watched, watched: those that are. coverage: 'events', 'partly' (the rest is
        -- polled) or 'polled', NULL while nobody watches; coverage_message: why, and what to do. paused_at: a person
        -- stopped it. excluded: entries that the rules leave out, as the last complete walk counted them.
        ALTER TABLE source ADD COLUMN directories INTEGER;
        ALTER TABLE source ADD COLUMN watched INTEGER;
        ALTER TABLE source ADD COLUMN coverage TEXT;
        ALTER TABLE source ADD COLUMN coverage_message TEXT;
        ALTER TABLE source ADD COLUMN paused_at INTEGER;
        ALTER TABLE source ADD COLUMN excluded INTEGER;

        -- emptied_at: when its last file was deleted, of emptied_files that it had had; NULL while it has files, and where
        -- it never had many.
        ALTER TABLE source ADD COLUMN emptied_at INTEGER;
        ALTER TABLE source ADD COLUMN emptied_files INTEGER;

        -- accepted: the reason of a hold that a person released, until the walk that it permits has ended.
        ALTER TABLE source ADD COLUMN accepted TEXT;

        -- paused_at: a person stopped it. accepted: the id of a new sentinel that a person agreed to, until everything
        -- that lay under the old one is recorded as lost.
        ALTER TABLE destination ADD COLUMN paused_at INTEGER;
        ALTER TABLE destination ADD COLUMN accepted TEXT;

        -- verified_upto: the copy that the last rolling share of a verification ended with. verified_at: when that was.
        ALTER TABLE destination ADD COLUMN verified_upto INTEGER;
        ALTER TABLE destination ADD COLUMN verified_at INTEGER;

        -- How the verification of a pair ended last. scope: 'all', or 'share' of so many percent of the destination.
        -- copies: what was read, bytes: of those that are sound; damaged, missing: how many of them, unverified: how many could not be read.
        -- all_at: when all of it was last read in one go. failed_at, failure: a later one did not come to its end, and why.
        CREATE TABLE verification (
            source_id INTEGER NOT NULL,
            destination_id INTEGER NOT NULL,
            ended_at INTEGER,
            scope TEXT,
            share REAL,
            copies INTEGER NOT NULL DEFAULT 0,
            bytes INTEGER NOT NULL DEFAULT 0,
            damaged INTEGER NOT NULL DEFAULT 0,
            missing INTEGER NOT NULL DEFAULT 0,
            unverified INTEGER NOT NULL DEFAULT 0,
            all_at INTEGER,
            failed_at INTEGER,
            failure TEXT,
            PRIMARY KEY (source_id, destination_id)
        ) STRICT, WITHOUT ROWID;

        -- What the event is about, where it is one path, one source, one destination.
        ALTER TABLE journal ADD COLUMN path ANY;
        ALTER TABLE journal ADD COLUMN source_id INTEGER;
        ALTER TABLE journal ADD COLUMN destination_id INTEGER;
        CREATE INDEX journal_path ON journal (path) WHERE path IS NOT NULL;

        -- The rules that leave entries of a source out, in their order, as the agent was last started with. origin: the
        -- file that the pattern stands in, NULL for an option of the command line; line: its line, or which option.
        CREATE TABLE exclude_rule (
            source_id INTEGER NOT NULL,
            position INTEGER NOT NULL,
            origin ANY,
            line INTEGER NOT NULL,
            pattern ANY NOT NULL,
            PRIMARY KEY (source_id, position)
        ) STRICT, WITHOUT ROWID;

        -- The order in which kept versions go when space is needed.
        CREATE INDEX copy_kept ON copy (destination_id, stored_at) WHERE role = 'kept';

        -- The room in a destination. checked_at: when its disk was last looked at, which had total and available bytes
        -- then; threshold, target, floor: what is to stay free there. baseline: what was available when that was last
        -- enough, or at the first look; stored: the bytes that we stored since then, less those that we removed.
        -- missing: why the last cleaning did not free enough. cleaned_*: the last cleaning that removed copies, how many
        -- and how many bytes. pruned_at: when the configured policy was last applied. max_size: what the backup may hold,
        -- max_usage: how much of the disk may be used, in hundredths of a percent; NULL without such a limit.
        CREATE TABLE capacity (
            destination_id INTEGER NOT NULL PRIMARY KEY,
            checked_at INTEGER NOT NULL,
            total INTEGER NOT NULL,
            available INTEGER NOT NULL,
            threshold INTEGER NOT NULL,
            target INTEGER NOT NULL,
            floor INTEGER NOT NULL,
            baseline INTEGER NOT NULL,
            stored INTEGER NOT NULL,
            missing TEXT,
            cleaned_at INTEGER,
            cleaned_copies INTEGER NOT NULL DEFAULT 0,
            cleaned_bytes INTEGER NOT NULL DEFAULT 0,
            pruned_at INTEGER,
            max_size INTEGER,
            max_usage INTEGER
        ) STRICT;
        -- A deleted path's copy that goes to the versions, where a destination mirrors deletions: not before then. version:
        -- where it is just being moved to, NULL before that; see StateStore+Retirement.
        CREATE TABLE retiring (
            copy_id INTEGER NOT NULL PRIMARY KEY,
            source_id INTEGER NOT NULL,
            destination_id INTEGER NOT NULL,
            not_before INTEGER NOT NULL,
            version ANY
        ) STRICT;
        CREATE INDEX retiring_due ON retiring (destination_id, source_id, not_before);

        -- Few names are fuzzy, and few copies damaged: to find them without a look at every one.
        CREATE INDEX name_fuzzy ON name (source_id, destination_id) WHERE fuzzy = 1 AND ended_at IS NULL;
        CREATE INDEX copy_damaged ON copy (destination_id, source_id) WHERE damaged <> 0;

        -- A large file that is being sent to a bucket in parts, so that a restart goes on with it. object_key: prefix
        -- included; upload: the server's name of it; token: stands in the object's metadata; stage_name: of the lease
        -- that it was last used by. inode, size, mtime_ns, ctime_ns: the source's file. digest, stored_size: of the whole
        -- content, set when all parts were sent, before the object is made of them.
        CREATE TABLE upload (
            id INTEGER NOT NULL PRIMARY KEY,
            destination_id INTEGER NOT NULL,
            object_key ANY NOT NULL,
            upload TEXT NOT NULL,
            token TEXT NOT NULL,
            stage_name TEXT NOT NULL,
            inode INTEGER NOT NULL,
            size INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL,
            ctime_ns INTEGER NOT NULL,
            part_size INTEGER NOT NULL,
            begun_at INTEGER NOT NULL,
            digest BLOB,
            stored_size INTEGER
        ) STRICT;

        -- A part of it that the server confirmed. digest: SHA-256 of its bytes.
        CREATE TABLE upload_part (
            upload_id INTEGER NOT NULL,
            number INTEGER NOT NULL,
            size INTEGER NOT NULL,
            etag TEXT NOT NULL,
            checksum TEXT,
            checksum_algorithm TEXT,
            digest BLOB NOT NULL,
            PRIMARY KEY (upload_id, number)
        ) STRICT, WITHOUT ROWID;
        """
}
