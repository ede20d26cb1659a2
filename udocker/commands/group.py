"""The command line as click sees it: every command, imported when it is used."""

from __future__ import annotations

import keyword
from importlib import import_module

import click

from udocker import __version__, console, settings
from udocker.commands import words
from udocker.errors import UdockerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


_ARGUMENTS = "[OPTIONS] IMAGE|CONTAINER [PROGRAM ARG...]"


class LazyGroup(click.Group):
    """A group that imports the module of a command, in `package`, when the command is wanted."""

    def __init__(
        self, known: Mapping[str, str], package: str = "udocker.commands", **options: Any
    ) -> None:
        super().__init__(**options)
        self.known = known
        self.package = package

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self.known)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command of that name."""
        if name not in self.known:
            return None
        module = import_module(f"{self.package}.{name}{'_' * keyword.iskeyword(name)}")
        if hasattr(module, "main"):
            from udocker.commands import runoptions

            own = getattr(module, "OPTIONS", None)
            groups = runoptions.GROUPS if own is None else (("Options", own),)
            arguments = getattr(module, "ARGUMENTS", _ARGUMENTS)
            return WordsCommand(name, module.main, self.known[name], groups, arguments)
        command: click.Command = module.command
        command.help = command.help or self.known[name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.known.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command; say which one was perhaps meant."""
        if args and args[0] not in self.known:
            import difflib

            near = difflib.get_close_matches(args[0], self.known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


class WordsCommand(click.Command):
    """A command whose words our own parser reads; click only shows its help."""

    def __init__(
        self, name: str, main: Any, help_text: str, groups: words.Groups, arguments: str
    ) -> None:
        shown = {title: [_click_option(o) for o in options] for title, options in groups}
        params: list[click.Parameter] = [option for group in shown.values() for option in group]
        super().__init__(name, params=params, help=help_text)
        self.options_metavar = arguments
        self._shown = shown
        self._main = main

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by subject."""
        help_option = self.get_help_option(ctx)
        for title, options in self._shown.items():
            others = [help_option] if help_option and title == next(reversed(self._shown)) else []
            records = [option.get_help_record(ctx) for option in (*options, *others)]
            with formatter.section(title):
                formatter.write_dl([record for record in records if record], col_max=24)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave all words as they are."""
        ctx.args = args
        return args

    def invoke(self, ctx: click.Context) -> int:
        """Give the words to the command; show its help when they ask for it."""
        code = words.guarded(lambda: self._main(ctx.args, ctx.obj))
        if code < 0:
            console.put(ctx.get_help())
        return max(code, 0)


def _click_option(option: words.Option) -> click.Option:
    metavar = {words.FLAG: None, words.OPTIONAL: f"[={option.metavar}]"}
    return click.Option(
        option.names,
        is_flag=option.kind == words.FLAG,
        metavar=metavar.get(option.kind, option.metavar),
        help=option.help,
    )


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        console.put(__version__)
        ctx.exit()


_OPTIONS = [
    click.Option(["-q", "--quiet"], is_flag=True, help="Say nothing but errors."),
    click.Option(["-D", "--debug"], is_flag=True, help="Show where an error came from."),
    click.Option(["--insecure"], is_flag=True, help="Use http, and https without certificates."),
    click.Option(["--repo", "directory"], metavar="DIR", help="Where images and containers lie."),
    click.Option(["--config"], metavar="FILE", help="Read settings from this file as well."),
    click.Option(["--allow-root"], is_flag=True, help="Accepted; root needs no leave."),
    click.Option(
        ["-V", "--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version
    ),
]


def _keep_settings(**flags: Any) -> None:
    flags.pop("allow_root", None)
    given = {key: value for key, value in flags.items() if value}
    in_force = settings.load(given)
    console.show_origins(wanted=in_force.debug)
    click.get_current_context().obj = in_force


def main(args: list[str], known: Mapping[str, str]) -> int:
    """Carry out `args`; return the exit code."""
    group = LazyGroup(
        known,
        name="udocker",
        params=[*_OPTIONS],
        callback=_keep_settings,
        help="Run containers without root, on any machine, with its GPUs.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    try:
        result = group.main(args or ["--help"], prog_name="udocker", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except SystemExit as stop:  # click's own answer to a reader that has gone, and to nothing else
        raise BrokenPipeError from stop
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        console.say("udocker: interrupted")
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except UdockerError as error:
        console.say_error(error)
        return error.exit_code
