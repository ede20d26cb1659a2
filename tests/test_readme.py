"""What README says of commands and engines is so."""

import os
import re

from udocker import cli
from udocker.diagnosis import abilities

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def readme():
    with open(f"{ROOT}/README.md", encoding="utf-8") as file:
        return file.read()


def test_the_table_of_engines_is_what_the_engines_say():
    assert "\n".join(abilities.table()) in readme()


def test_every_command_is_named():
    named = {word for text in re.findall(r"`([^`\n]+)`", readme()) for word in text.split()}
    unnamed = set(cli.COMMANDS) - named - {"version", "help", "showconf", "mkrepo"}
    assert unnamed == set()
