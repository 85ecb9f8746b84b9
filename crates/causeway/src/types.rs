//! `causeway types`: the types of events, for a person or a program.

use anyhow::Context as _;
use causeway_client::{EventTypeInfo, RegisterType, TypeVersion};
use causeway_event::{Category, Data, EventId, EventType};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use crate::cli::ServerArgs;
use crate::events;
use crate::output::{Look, Output, clean, one_line};

#[derive(Debug, Args)]
pub(crate) struct TypesArgs {
    #[command(subcommand)]
    pub(crate) command: TypesCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TypesCommand {
    /// List the types that Causeway knows, and those that were registered
    List(ServerArgs),
    /// Show the versions of a type with their schemas
    Show(ShowTypeArgs),
    /// Register a type of your own, or its next version
    Register(RegisterTypeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ShowTypeArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// The type
    #[arg(value_name = "TYPE")]
    pub(crate) name: EventType,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Events that are appended from then on are checked; all are read in the newest version.

Examples:
  causeway types register OrderPlaced --schema @order.json
  causeway types register OrderPlaced --schema @order-2.json --version 2 \\
    --upcast '[{\"op\": \"move\", \"from\": \"/amount\", \"path\": \"/total\"}]'")]
pub(crate) struct RegisterTypeArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// The type
    #[arg(value_name = "TYPE")]
    pub(crate) name: EventType,
    /// The JSON Schema (draft 2020-12) of its data: JSON, @FILE, or - for standard input
    #[arg(long, value_name = "JSON")]
    pub(crate) schema: String,
    /// How data of the version before becomes data of this one: JSON Patch (RFC 6902), as JSON, @FILE or -
    #[arg(long, value_name = "JSON")]
    pub(crate) upcast: Option<String>,
    /// The version that this is: refused if it is another one's [default: the next]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) version: Option<u32>,
    /// What it says, for a person
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
}

/// `causeway types ...`
pub(crate) async fn run(args: TypesArgs, out: &Output) -> anyhow::Result<()> {
    match args.command {
        TypesCommand::List(server) => {
            let types = events::client(&server)?.types().await?;
            list(&types, out)
        }
        TypesCommand::Show(args) => show(args, out).await,
        TypesCommand::Register(args) => register(args, out).await,
    }
}

fn list(types: &[EventTypeInfo], out: &Output) -> anyhow::Result<()> {
    if out.json {
        return out.json(&TypesJson { types: types.iter().map(json_of).collect() });
    }
    let width = types.iter().map(|info| info.name.len()).max().unwrap_or_default();
    for info in types {
        let newest = info.versions.last().map_or(0, |version| version.version);
        // Only the users' own types have versions to speak of.
        let version = if info.category == Category::Custom { format!("v{newest}") } else { String::new() };
        let name = out.paint(Look::Strong, &format!("{:width$}", info.name));
        let line = format!("{name}  {:6} {version:4} {}", info.category, one_line(&info.description, Some(80)));
        out.line(line.trim_end())?;
    }
    Ok(())
}

async fn show(args: ShowTypeArgs, out: &Output) -> anyhow::Result<()> {
    let ShowTypeArgs { server, name } = args;
    let types = events::client(&server)?.types().await?;
    let Some(info) = types.iter().find(|info| info.name == name.as_str()) else {
        anyhow::bail!("there is no known or registered type {name}");
    };
    if out.json {
        return out.json(&json_of(info));
    }
    out.line(&format!("{} ({})", out.paint(Look::Strong, &info.name), info.category))?;
    if !info.description.is_empty() {
        out.line(&clean(&info.description))?;
    }
    for version in &info.versions {
        out.line(&out.paint(Look::Accent, &format!("\nversion {}", version.version)))?;
        out.line(&clean(&pretty(&version.schema)?))?;
        if let Some(upcast) = &version.upcast {
            out.line(&out.paint(Look::Dim, "from the version before:"))?;
            out.line(&clean(&pretty(upcast)?))?;
        }
    }
    Ok(())
}

async fn register(args: RegisterTypeArgs, out: &Output) -> anyhow::Result<()> {
    let RegisterTypeArgs { server, name, schema, upcast, version, description } = args;
    let register = RegisterType {
        name: name.to_string(),
        schema: events::json("--schema", &schema)?,
        upcast: upcast.as_deref().map(|upcast| events::json("--upcast", upcast)).transpose()?,
        version,
        description: description.unwrap_or_default(),
    };
    let registered = events::client(&server)?.register_type(register).await?;
    if out.json {
        return out.json(&RegisteredJson { info: json_of(&registered.info), duplicate: registered.duplicate });
    }
    let newest = version.or_else(|| registered.info.versions.last().map(|version| version.version)).unwrap_or_default();
    let what = if registered.duplicate { "was registered before" } else { "is registered" };
    Ok(out.line(&format!("{name} version {newest} {}", out.paint(Look::Good, what)))?)
}

/// What a program gets: schemas as they were written.
#[derive(Serialize)]
struct TypesJson<'a> {
    types: Vec<TypeJson<'a>>,
}

#[derive(Serialize)]
struct RegisteredJson<'a> {
    #[serde(rename = "type")]
    info: TypeJson<'a>,
    duplicate: bool,
}

#[derive(Serialize)]
struct TypeJson<'a> {
    name: &'a str,
    category: Category,
    description: &'a str,
    versions: Vec<VersionJson<'a>>,
}

#[derive(Serialize)]
struct VersionJson<'a> {
    version: u32,
    schema: &'a Data,
    upcast: Option<&'a Data>,
    registered_by: Option<EventId>,
}

fn json_of(info: &EventTypeInfo) -> TypeJson<'_> {
    let EventTypeInfo { name, category, description, versions } = info;
    TypeJson { name, category: *category, description, versions: versions.iter().map(version_json).collect() }
}

fn version_json(version: &TypeVersion) -> VersionJson<'_> {
    let TypeVersion { version, schema, upcast, registered_by } = version;
    VersionJson { version: *version, schema, upcast: upcast.as_ref(), registered_by: *registered_by }
}

fn pretty(json: &Data) -> anyhow::Result<String> {
    let value: Value = serde_json::from_str(json.as_str()).context("the gateway's answer is not JSON")?;
    Ok(serde_json::to_string_pretty(&value)?)
}
