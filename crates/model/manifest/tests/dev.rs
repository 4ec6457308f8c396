//! `[service.X.dev]`: read beside the app, which knows nothing of it.

use std::path::{Path, PathBuf};

use coppice_manifest::{Context, Parsed, parse};

fn read(text: &str) -> Result<Parsed, String> {
    let context = Context::new("/srv/shop");
    parse(text, "coppice.toml", &context).map_err(|diagnostics| diagnostics.render(false))
}

const WEB: &str = "app = \"shop\"\n[service.web]\nimage = \"web\"\n";

#[test]
fn what_is_built_and_watched_is_no_part_of_the_app() {
    let with = read(&format!("{WEB}[service.web.dev]\nbuild = \"make\"\nwatch = [\"src\", \"../lib\", \"/etc/x\"]\n"));
    let with = with.unwrap();
    assert_eq!(with.apps, read(WEB).unwrap().apps);
    let dev = &with.dev[0];
    assert_eq!((dev.app.as_str(), dev.service.as_str(), dev.build.as_deref()), ("shop", "web", Some("make")));
    let paths: Vec<PathBuf> = ["/srv/shop/src", "/srv/lib", "/etc/x"].map(PathBuf::from).into();
    assert_eq!((dev.watch.as_slice(), dev.dir.as_path()), (paths.as_slice(), Path::new("/srv/shop")));
    assert_eq!(read(&format!("{WEB}[service.web.dev]\nwatch = [\".\"]\n")).unwrap().dev[0].build, None);
}

#[test]
fn a_build_of_nothing_and_a_build_that_is_nothing_are_refused() {
    for (dev, why) in [
        ("build = \"make\"", "[service.web.dev] does not say what its build is of"),
        ("build = \" \"\nwatch = [\"src\"]", "`build` is empty"),
        ("watch = [\"\"]", "a path in `watch` is empty"),
        ("biuld = \"make\"", "did you mean `build`?"),
    ] {
        let said = read(&format!("{WEB}[service.web.dev]\n{dev}\n")).unwrap_err();
        assert!(said.contains(why), "{dev}: {said}");
    }
    assert!(read(&format!("{WEB}build = \".\"\n")).unwrap_err().contains("[service.NAME.dev]"));
}
