//! `setup/cuda.sh`, with a stand-in for Python that installs small files, so that nothing is downloaded.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Installs what the real packages hold, as `pip install --target FOLDER` does.
const PYTHON: &str = r#"#!/bin/sh
echo "$@" >>"$CALLS"
case "$*" in
*"pip --version") exit 0 ;;
*"pip install"*) ;;
*) exit 1 ;;
esac
while [ "$1" != --target ]; do shift; done
mkdir -p "$2/nvidia/cu13/include" "$2/nvidia/cu13/bin" "$2/one.dist-info"
case "$*" in
*nvrtc-cu12*) below=cuda_nvrtc library=libnvrtc.so.12 ;;
*) below=cu13 library=libnvrtc.so.13 ;;
esac
mkdir -p "$2/nvidia/$below/lib" "$2/nvidia/$below/include"
printf library >"$2/nvidia/$below/lib/$library"
[ -z "$FAIL" ] || { echo "no such package" >&2; exit 1; }
printf '#!/bin/sh\n' >"$2/nvidia/cu13/bin/nvdisasm"
chmod +x "$2/nvidia/cu13/bin/nvdisasm"
"#;

struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    /// A machine whose `python3` is this script, or that has none.
    fn with(python: Option<&str>) -> Machine {
        let machine = Machine { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(machine.at("bin")).unwrap();
        for tool in
            ["bash", "cat", "cp", "dirname", "ls", "mkdir", "mktemp", "mv", "rm", "sh", "uname", "chmod"]
        {
            let found = ["/bin", "/usr/bin"]
                .iter()
                .map(|folder| Path::new(folder).join(tool))
                .find(|path| path.exists());
            std::os::unix::fs::symlink(found.unwrap(), machine.at("bin").join(tool)).unwrap();
        }
        if let Some(python) = python {
            fs::write(machine.at("bin/python3"), python).unwrap();
            fs::set_permissions(machine.at("bin/python3"), fs::Permissions::from_mode(0o755)).unwrap();
        }
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn run(&self, arguments: &[&str], variables: &[(&str, PathBuf)]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../setup/cuda.sh");
        Command::new(self.at("bin/bash"))
            .arg(script)
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", self.at("bin"))
            .env("CALLS", self.at("calls"))
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .output()
            .unwrap()
    }

    /// What is in a folder, without what is below.
    fn names(&self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.at(path))
            .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        names.sort();
        names
    }

    fn calls(&self) -> usize {
        fs::read_to_string(self.at("calls")).map_or(0, |calls| calls.lines().count())
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

#[test]
fn it_installs_once_where_diptych_looks() {
    for (name, value, folder) in [
        ("HOME", "home", "home/.cache/diptych"),
        ("XDG_CACHE_HOME", "xdg", "xdg/diptych"),
        ("DIPTYCH_CACHE", "cache", "cache"),
    ] {
        let machine = Machine::with(Some(PYTHON));
        let variables = [(name, machine.at(value))];
        let output = machine.run(&[], &variables);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(machine.names(folder), ["cuda"], "nothing beside it must stay");
        assert_eq!(
            machine.names(&format!("{folder}/cuda")),
            ["bin", "include", "lib", "one.dist-info", "versions"]
        );
        let calls = machine.calls();
        let output = machine.run(&[], &variables);
        assert!(output.status.success() && said(&output).contains("already"), "{}", said(&output));
        assert_eq!(machine.calls(), calls, "there is nothing left to do");
    }
}

#[test]
fn other_versions_are_replaced_and_what_is_not_its_own_is_left_alone() {
    let machine = Machine::with(Some(PYTHON));
    fs::create_dir(machine.at("cuda")).unwrap();
    assert!(machine.run(&["cuda"], &[]).status.success(), "an empty folder may be filled");
    fs::write(machine.at("cuda/versions"), "older\n").unwrap();
    fs::write(machine.at("cuda/lib/old"), "").unwrap();
    assert!(machine.run(&["cuda/"], &[]).status.success());
    assert_eq!(machine.names("cuda/lib"), ["libnvrtc.so.13"]);
    assert!(fs::read_to_string(machine.at("cuda/versions")).unwrap().contains("nvidia-cuda-nvrtc==13"));

    fs::create_dir(machine.at("mine")).unwrap();
    fs::write(machine.at("mine/work"), "").unwrap();
    fs::write(machine.at("file"), "mine").unwrap();
    for folder in ["mine", "file"] {
        let output = machine.run(&[folder], &[]);
        assert_eq!(output.status.code(), Some(2));
        assert!(said(&output).contains("did not install"), "{}", said(&output));
    }
    assert_eq!(machine.names("mine"), ["work"]);
    assert_eq!(machine.names("."), ["bin", "calls", "cuda", "file", "mine"]);
}

#[test]
fn it_installs_what_the_driver_runs_or_what_is_named() {
    let library = |machine: &Machine| machine.names("cuda/lib");
    let machine = Machine::with(Some(PYTHON));
    for (arguments, expected) in [
        (vec!["--cuda", "12", "cuda"], "libnvrtc.so.12"),
        (vec!["cuda", "--cuda=13"], "libnvrtc.so.13"),
        (vec!["cuda"], "libnvrtc.so.13"),
    ] {
        let output = machine.run(&arguments, &[]);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(library(&machine), [expected], "{arguments:?}");
    }
    for (told, expected) in [
        ("| Driver Version: 550.54   CUDA Version: 12.4     |", "libnvrtc.so.12"),
        ("| Driver Version: 580.65   CUDA Version: 13.0     |", "libnvrtc.so.13"),
        ("no devices were found", "libnvrtc.so.13"),
    ] {
        let machine = Machine::with(Some(PYTHON));
        let script = format!("#!/bin/sh\necho '{told}'\n");
        fs::write(machine.at("bin/nvidia-smi"), script).unwrap();
        fs::set_permissions(machine.at("bin/nvidia-smi"), fs::Permissions::from_mode(0o755)).unwrap();
        let output = machine.run(&["cuda"], &[]);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(library(&machine), [expected], "{told}");
    }
    for arguments in [["--cuda", "11"].as_slice(), &["--cuda"], &["--other", "cuda"]] {
        assert_eq!(machine.run(arguments, &[]).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_failed_installation_leaves_nothing_and_breaks_nothing() {
    let machine = Machine::with(Some(PYTHON));
    let fails = [("FAIL", PathBuf::from("yes"))];
    let output = machine.run(&["cuda"], &fails);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("no such package") && said(&output).contains("nothing was changed"));
    assert_eq!(machine.names("."), ["bin", "calls"]);
    assert!(machine.run(&["cuda"], &[]).status.success());
    fs::write(machine.at("cuda/versions"), "older\n").unwrap();
    assert_eq!(machine.run(&["cuda"], &fails).status.code(), Some(2));
    assert_eq!(fs::read_to_string(machine.at("cuda/versions")).unwrap(), "older\n");
    assert_eq!(machine.names("cuda/bin"), ["nvdisasm"]);

    // Packages without what is needed of them.
    let empty = Machine::with(Some(&PYTHON.replace("bin/nvdisasm", "bin/other")));
    let output = empty.run(&["cuda"], &[]);
    assert!(said(&output).contains("bin/nvdisasm is in none of"), "{}", said(&output));
    assert_eq!(empty.names("."), ["bin", "calls"]);
}

#[test]
fn what_is_missing_is_said() {
    for (python, missing) in
        [(None, "python3 is missing"), (Some("#!/bin/sh\nexit 1\n"), "python3 has no pip")]
    {
        let machine = Machine::with(python);
        let output = machine.run(&["cuda"], &[]);
        assert_eq!(output.status.code(), Some(2));
        assert!(
            said(&output).contains(missing) && said(&output).contains("apt-get install"),
            "{}",
            said(&output)
        );
        assert_eq!(machine.names("."), ["bin"]);
    }
    let machine = Machine::with(Some(PYTHON));
    for arguments in [["a", "b"].as_slice(), &["/"], &[]] {
        assert_eq!(machine.run(arguments, &[]).status.code(), Some(2), "{arguments:?}");
    }
}
