//! Scripts: what comes of them, whatever they do.

use std::{fs, io, path::Path, time::Duration};

use mi_kernel::receipt::{Artifact, Command, sha256_hex};
use mi_proto::v1::LogStream;
use mi_testkit::until;

use crate::platform::{LONG, working};

/// A script's result on a quiet platform.
async fn result_of(script: &str) -> String {
    let (platform, agent, _dir) = working(|_| {}).await;
    let id = platform.command(script);
    let result = platform.completion(&id).await.0.result;
    agent.stop().await;
    result
}

/// Waits until a process is gone, or nothing but its name is left.
pub(crate) async fn dead(id: &str) {
    let id = id.trim().to_owned();
    until(&format!("process {id} is dead"), LONG, async || {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let dead = stat.is_empty() || stat.contains(") Z ");
        if dead { Ok(Some(())) } else { Err(stat) }
    })
    .await;
}

/// Waits until a script has written a line into a file of the workspace.
pub(crate) async fn written(dir: &Path, name: &str) -> String {
    let path = dir.join("workspace").join(name);
    until(&format!("{name} is written"), LONG, async || {
        let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        Ok::<_, String>(text.ends_with('\n').then_some(text))
    })
    .await
}

#[tokio::test]
async fn exit_code_and_both_outputs_are_the_result_and_each_line_is_in_the_log() {
    let (platform, agent, dir) = working(|_| {}).await;
    let script = "echo out; echo err >&2; pwd; printf '%s %s %s' $MI_TASK_ID $MI_OFFICE_ID $MI_ATTEMPT";
    let id = platform.command(script);
    let (completion, receipt) = platform.completion(&id).await;
    let workspace = dir.path().join("workspace").canonicalize().expect("there");
    let printed = format!("{}\n{id} office 1\n", workspace.display());
    let head = "--- stdout (no newline at the end)";
    assert_eq!(completion.result, format!("exit code: 0\n{head}\nout\n{printed}--- stderr\nerr\n"));
    assert_eq!((completion.lease_id.as_str(), completion.artifacts.len()), ("lease of task-1", 0));
    assert_eq!(receipt.attempt, 1);
    assert_eq!(receipt.commands, [Command { sha256: sha256_hex(script.as_bytes()), exit_code: 0 }]);
    agent.stop().await;

    {
        let batches = platform.batches.lock().expect("lock");
        let lines: Vec<_> =
            batches.iter().flat_map(|(_, lines)| lines).map(|line| (line.stream(), &*line.text)).collect();
        for line in [
            (LogStream::Agent, "task task-1: attempt 1, \"A task\""),
            (LogStream::Stdout, "task task-1: out"),
            (LogStream::Stderr, "task task-1: err"),
            (LogStream::Stdout, "task task-1: task-1 office 1"),
            (LogStream::Agent, "task task-1: done"),
        ] {
            assert!(lines.contains(&line), "{line:?} in {lines:?}");
        }
    }
    // Nothing of a task stays but what it left in the workspace; its own directory is removed in the background.
    until("only the workspace and the key are left", LONG, async || {
        let mut left: Vec<_> =
            fs::read_dir(dir.path())?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
        left.retain(|name| name != "workspace" && name != "identity.key");
        if left.is_empty() { Ok(Some(())) } else { Err(io::Error::other(format!("{left:?}"))) }
    })
    .await;
}

#[tokio::test]
async fn another_exit_code_is_a_failed_attempt() {
    let (platform, agent, _dir) = working(|_| {}).await;
    let id = platform.command("echo half; echo broken >&2; exit 3");
    let failure = platform.failure(&id).await;
    assert_eq!(failure.error, "exit code: 3\n--- stdout\nhalf\n--- stderr\nbroken\n");
    assert_eq!((failure.retryable, failure.loop_detected), (true, false));
    let killed = platform.command("kill -9 $$");
    assert_eq!(platform.failure(&killed).await.error, "exit code: 137\n");
    agent.stop().await;
}

#[tokio::test]
async fn a_script_without_end_is_stopped_at_the_time_limit_with_all_it_started() {
    let (platform, agent, dir) = working(|config| config.command_limit = Duration::from_secs(1)).await;
    let id = platform.command("sleep 1000 & echo $! > child; echo begun; wait");
    let failure = platform.failure(&id).await;
    assert_eq!(failure.error, "no exit code: stopped after 1 s, the time limit\n--- stdout\nbegun\n");
    assert!(failure.retryable);
    dead(&written(dir.path(), "child").await).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_script_that_prints_for_ever_is_bounded() {
    let (platform, agent, _dir) = working(|config| config.command_limit = Duration::from_secs(1)).await;
    let id = platform.command("yes 0123456789");
    let error = platform.failure(&id).await.error;
    assert!(error.starts_with("no exit code: stopped after 1 s, the time limit\n--- stdout (the last "), "{error}");
    assert!(error.len() < 32 << 10, "{}", error.len());
    agent.stop().await;
    let files = platform.files.lock().expect("lock");
    assert_eq!(files.keys().collect::<Vec<_>>(), ["tasks/task-1/1/stdout.log"]);
    assert!(files["tasks/task-1/1/stdout.log"].len() <= 64 << 20);
}

#[tokio::test]
async fn long_output_is_kept_whole_in_the_drive_and_its_end_is_the_result() {
    let (platform, agent, _dir) = working(|_| {}).await;
    let id = platform.command("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo short >&2");
    let (completion, receipt) = platform.completion(&id).await;
    let whole: String = (0..20000).map(|index| format!("line {index}\n")).collect();
    let tail = &whole[whole.len() - (48 << 10)..];
    let path = "tasks/task-1/1/stdout.log";
    let first = format!("--- stdout (the last 49152 of {} bytes; the whole is {path} in the drive)", whole.len());
    assert_eq!(completion.result, format!("exit code: 0\n{first}\n{tail}--- stderr\nshort\n"));
    assert_eq!(platform.files.lock().expect("lock")[path], whole.as_bytes());
    let artifact = Artifact { path: path.into(), revision: 100, sha256: sha256_hex(whole.as_bytes()) };
    assert_eq!(receipt.artifacts, [artifact]);
    agent.stop().await;
}

#[tokio::test]
async fn what_is_no_text_is_replaced_and_never_split() {
    let (platform, agent, _dir) = working(|_| {}).await;
    let id = platform.command(r"printf 'a\377b\0c'; printf 'a\0\n' >&2");
    let (completion, receipt) = platform.completion(&id).await;
    let (out, err) = ("tasks/task-1/1/stdout.log", "tasks/task-1/1/stderr.log");
    let head = |name, bytes, text, path| {
        format!("--- {name} ({bytes} bytes, shown as {text} bytes of text; the whole is {path} in the drive)")
    };
    let (first, second) = (head("stdout", 5, 9, out), head("stderr", 3, 5, err));
    let expected = format!("exit code: 0\n{first}\na\u{fffd}b\u{fffd}c\n{second}\na\u{fffd}\n");
    assert_eq!(completion.result, expected);
    let artifact =
        |path: &str, revision, content: &[u8]| Artifact { path: path.into(), revision, sha256: sha256_hex(content) };
    assert_eq!(receipt.artifacts, [artifact(out, 100, b"a\xffb\0c"), artifact(err, 101, b"a\0\n")]);
    agent.stop().await;
    {
        let files = platform.files.lock().expect("lock");
        assert_eq!((files[out].as_slice(), files[err].as_slice()), (&b"a\xffb\0c"[..], &b"a\0\n"[..]));
    }
    // 50,001 bytes: the cut falls into the middle of a character.
    let result = result_of("printf x; i=0; while [ $i -lt 25000 ]; do printf é; i=$((i+1)); done").await;
    assert!(result.ends_with(&format!("drive)\n{}\n", "é".repeat(24576))), "{}", &result[..200]);
}

#[tokio::test]
async fn a_script_reads_nothing_and_may_replace_itself() {
    assert_eq!(result_of("cat; echo end").await, "exit code: 0\n--- stdout\nend\n");
    assert_eq!(result_of("exec echo replaced").await, "exit code: 0\n--- stdout\nreplaced\n");
    assert_eq!(result_of("").await, "exit code: 0\n");
}

#[tokio::test]
async fn whatever_a_script_leaves_running_ends_with_it() {
    let (platform, agent, dir) = working(|_| {}).await;
    // One keeps the output open, one has left the session, one has also dropped its parent.
    let id = platform.command(
        "sleep 1000 & echo $! > a; setsid sleep 1000 & echo $! > b; \
         setsid sh -c 'sleep 1000 & echo $! > c' > /dev/null 2>&1; echo end",
    );
    assert_eq!(platform.completion(&id).await.0.result, "exit code: 0\n--- stdout\nend\n");
    for name in ["a", "b", "c"] {
        dead(&written(dir.path(), name).await).await;
    }
    agent.stop().await;
}

/// Starts a process with nothing of the script's but its descent, and waits until its id is in the file.
fn daemon(file: &str) -> String {
    format!(
        "env -i setsid sh -c 'echo $$ > {file}; exec sleep 1000' > /dev/null 2>&1 & \
         until [ -s {file} ]; do sleep 0.01; done;"
    )
}

#[tokio::test]
async fn what_has_shed_session_and_environment_ends_with_its_script_and_with_no_other() {
    let (platform, agent, dir) = working(|_| {}).await;
    let lasting = format!("(setsid sh -c \"{}\"); ", daemon("a").replace('$', "\\$"));
    let lasting = platform.command(&format!("{lasting} until [ -e go ]; do sleep 0.01; done; kill -0 $(cat a)"));
    let kept = written(dir.path(), "a").await;
    let short = platform.command(&daemon("b"));
    assert_eq!(platform.completion(&short).await.0.result, "exit code: 0\n");
    dead(&written(dir.path(), "b").await).await;
    std::fs::write(dir.path().join("workspace/go"), "").expect("written");
    assert_eq!(platform.completion(&lasting).await.0.result, "exit code: 0\n", "it was alive as long as its script");
    dead(&kept).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_script_that_kills_its_supervisor_ends_with_all_it_started() {
    let (platform, agent, dir) = working(|_| {}).await;
    let id = platform.command(&format!("{} echo $$ > b; kill -9 $PPID; sleep 1000", daemon("a")));
    assert_eq!(platform.failure(&id).await.error, "exit code: 137\n");
    for name in ["a", "b"] {
        dead(&written(dir.path(), name).await).await;
    }
    // The next one is as any other.
    assert_eq!(platform.completion(&platform.command("echo on")).await.0.result, "exit code: 0\n--- stdout\non\n");
    agent.stop().await;
}

#[tokio::test]
async fn a_stop_ends_what_has_shed_session_and_environment() {
    let (platform, agent, dir) = working(|_| {}).await;
    platform.command(&format!("{} echo > begun; sleep 1000", daemon("a")));
    let left = written(dir.path(), "a").await;
    written(dir.path(), "begun").await;
    agent.stop().await;
    dead(&left).await;
}

#[tokio::test]
async fn what_it_publishes_is_in_the_drive_and_on_the_receipt() {
    let (platform, agent, _dir) = working(|_| {}).await;
    let id = platform.command("mkdir $MI_ARTIFACTS/deep; echo a > $MI_ARTIFACTS/a.txt; : > $MI_ARTIFACTS/deep/empty");
    let (completion, receipt) = platform.completion(&id).await;
    assert_eq!(completion.artifacts, ["tasks/task-1/a.txt", "tasks/task-1/deep/empty"]);
    let artifact =
        |path: &str, revision, content: &[u8]| Artifact { path: path.into(), revision, sha256: sha256_hex(content) };
    let expected = [artifact("tasks/task-1/a.txt", 100, b"a\n"), artifact("tasks/task-1/deep/empty", 101, b"")];
    assert_eq!(receipt.artifacts, expected);
    assert_eq!(completion.result, "exit code: 0\n");
    agent.stop().await;
}

#[tokio::test]
async fn a_link_is_published_as_what_it_leads_to_in_the_workspace() {
    let (platform, agent, _dir) = working(|_| {}).await;
    let id = platform.command(
        "mkdir -p out/lib; echo app > out/app-1.2; echo lib > out/lib/a.so; ln -s a.so out/lib/b.so; \
         ln -s $PWD/out/app-1.2 $MI_ARTIFACTS/app; ln -s app $MI_ARTIFACTS/app-latest; ln -s $PWD/out/lib $MI_ARTIFACTS/lib",
    );
    let (completion, _) = platform.completion(&id).await;
    let names = ["app", "app-latest", "lib/a.so", "lib/b.so"].map(|name| format!("tasks/task-1/{name}"));
    assert_eq!((completion.artifacts, completion.result.as_str()), (names.to_vec(), "exit code: 0\n"));
    let whole = platform.command("mkdir -p dist; echo x > dist/x; rmdir $MI_ARTIFACTS; ln -s $PWD/dist $MI_ARTIFACTS");
    assert_eq!(platform.completion(&whole).await.0.artifacts, ["tasks/task-2/x"]);
    agent.stop().await;
    let files = platform.files.lock().expect("lock");
    let kept = |name: &str| String::from_utf8_lossy(&files[name]).into_owned();
    assert_eq!(names.map(|name| kept(&name)), ["app\n", "app\n", "lib\n", "lib\n"]);
}

#[tokio::test]
async fn what_cannot_be_published_fails_the_attempt_by_name_and_publishes_nothing() {
    let (platform, agent, _dir) = working(|_| {}).await;
    for (script, problem) in [
        ("ln -s /etc/passwd $MI_ARTIFACTS/secret", "\"secret\": a link that leads out of the workspace"),
        ("ln -s /etc $MI_ARTIFACTS/etc", "\"etc\": a link that leads out of the workspace"),
        (
            "ln -s nowhere $MI_ARTIFACTS/dangling",
            "\"dangling\": a link that leads to nothing: No such file or directory (os error 2)",
        ),
        (
            "ln -s round $MI_ARTIFACTS/round",
            "\"round\": a link that leads to nothing: Too many levels of symbolic links (os error 40)",
        ),
        (
            "mkdir -p a/b; ln -s $PWD/a a/b/c; ln -s $PWD/a $MI_ARTIFACTS/a",
            "\"a/b/c\": a link to a directory that it is in itself",
        ),
    ] {
        let id = platform.command(&format!("echo good > $MI_ARTIFACTS/good; {script}"));
        let error = platform.failure(&id).await.error;
        assert_eq!(error, format!("not all of $MI_ARTIFACTS can be published:\n{problem}\nexit code: 0\n"));
    }
    let id = platform.command("mkfifo $MI_ARTIFACTS/pipe; ln -s /dev/zero $MI_ARTIFACTS/zero");
    let error = platform.failure(&id).await.error;
    let (first, second) =
        ("\"zero\": a link that leads out of the workspace", "\"pipe\": neither a file nor a directory");
    let told =
        format!("not all of $MI_ARTIFACTS can be published:\n{first}\nleft out besides:\n{second}\nexit code: 0\n");
    assert_eq!(error, told);
    let away = platform.command("rmdir $MI_ARTIFACTS; ln -s /usr $MI_ARTIFACTS");
    let error = platform.failure(&away).await.error;
    assert_eq!(error, "$MI_ARTIFACTS is a link that leads out of the workspace\nexit code: 0\n");
    agent.stop().await;
    assert_eq!(*platform.files.lock().expect("lock"), Default::default());
}

#[tokio::test]
async fn what_the_drive_cannot_have_is_left_out_by_name_and_the_others_are_published() {
    let (platform, agent, _dir) = working(|_| {}).await;
    let id = platform.command(
        r"cd $MI_ARTIFACTS; echo good > good; mkfifo pipe; echo x > $(printf 'not\377utf'); echo x > 'two
lines'; d=$(printf %0200d 0); mkdir -p $d/$d/$d/$d/$d; echo x > $d/$d/$d/$d/$d/0123456789",
    );
    let (completion, _) = platform.completion(&id).await;
    let far = vec!["0".repeat(200); 5].join("/");
    let mut lines: Vec<&str> = completion.result.lines().collect();
    assert_eq!(lines.drain(..2).collect::<Vec<_>>(), ["exit code: 0", "--- left out of what is published"]);
    lines.sort_unstable();
    let far = format!("\"{}: path must have at most 1024 bytes", &far[..299]);
    let expected = [
        far.as_str(),
        r#""not\xFFutf": the name is not UTF-8"#,
        r#""pipe": neither a file nor a directory"#,
        r#""two\nlines": path must not contain backslashes, or control, line-breaking or text-direction characters"#,
    ];
    assert_eq!(lines, expected);
    assert_eq!(completion.artifacts, ["tasks/task-1/good"]);
    agent.stop().await;
}

#[tokio::test]
async fn too_many_published_files_are_a_failed_attempt() {
    let (platform, agent, _dir) = working(|_| {}).await;
    let id = platform.command("cd $MI_ARTIFACTS; i=0; while [ $i -le 500 ]; do : > $i; i=$((i+1)); done");
    let error = platform.failure(&id).await.error;
    assert!(
        error.starts_with("more than 500 files in $MI_ARTIFACTS: publish them as one archive\nexit code: 0"),
        "{error}"
    );
    assert_eq!(*platform.files.lock().expect("lock"), Default::default());
    agent.stop().await;
}

#[tokio::test]
async fn a_workspace_that_is_gone_is_said() {
    let (platform, agent, _dir) = working(|config| config.workspace = "/nonexistent".into()).await;
    let id = platform.command("true");
    let error = platform.failure(&id).await.error;
    assert_eq!(error, "the script could not be run: No such file or directory (os error 2)");
    agent.stop().await;
}
