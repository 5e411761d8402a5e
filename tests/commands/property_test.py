#!/usr/bin/env python3
"""Nothing that revode did not make ever changes: random folders, files and links, random commands among them.

    REVODE_PROPERTY_SEED and REVODE_PROPERTY_COMMANDS set the seed (printed; else a fixed one) and how many commands run.
"""
import os
import random
import shlex
import subprocess

import program
import strangers

SEED = int(os.environ.get("REVODE_PROPERTY_SEED", "14"))
NUM_COMMANDS = int(os.environ.get("REVODE_PROPERTY_COMMANDS", "40"))
# Strangers settle in between: a world that no command changes any more tests nothing.
COMMANDS_A_WORLD = 10
# Far above what any command here takes; what waits for a FIFO takes the whole of it.
SOON = 60


class Property(program.ProgramTest):
    def test_nothing_that_revode_did_not_make_ever_changes(self):
        print(f"seed {SEED}: set REVODE_PROPERTY_SEED to repeat or to change it", flush=True)
        statuses = {}
        first = strangers.World(self.folder / "first", random.Random(SEED), program.REVODE)
        first.make_runs()
        for number in range(-(-NUM_COMMANDS // COMMANDS_A_WORLD)):
            world = first.copy(self.folder / f"world-{number}", random.Random(f"{SEED}-{number}"))
            world.populate()
            history = []
            for _ in range(min(COMMANDS_A_WORLD, NUM_COMMANDS - number * COMMANDS_A_WORLD)):
                for _ in range(3):
                    world.add_stranger()
                arguments = world.any_command()
                history.append(f"revode {shlex.join(arguments)}")
                try:
                    before, after, done = world.run(arguments, timeout=SOON)
                except subprocess.TimeoutExpired:
                    self.fail("\n".join(["hangs:", *history]))
                found = world.violations(before, after, arguments, done)
                self.assertEqual(found, [], "\n".join([f"seed {SEED}, world {number}:", *history,
                                                       f"status {done.returncode}", done.stdout.decode(errors="replace"),
                                                       done.stderr.decode(errors="replace")]))
                world.learn(before, after, arguments)
                statuses[done.returncode] = statuses.get(done.returncode, 0) + 1
        print(f"{NUM_COMMANDS} commands: " + ", ".join(f"{count} with status {status}"
                                                       for status, count in sorted(statuses.items())))
        # Commands that are all refused would show nothing.
        if NUM_COMMANDS >= 40:
            self.assertGreater(statuses.get(0, 0), 4)


if __name__ == "__main__":
    program.main()
