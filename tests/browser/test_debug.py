"""A breakpoint in a real JupyterLab: the input box stands under the running cell, and what is typed there reaches the rank."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.lab import LabPage

STOPS = """%%elastic_launch -n 2
import os
def work(x):
    breakpoint()
    return x + 1
work(int(os.environ["RANK"]) * 10)
"""


def test_a_breakpoint_asks_in_a_box_under_the_running_cell(lab: LabPage) -> None:
    lab.new("%load_ext nb_elastic\nimport nb_elastic", STOPS, "print(nb_elastic.last_run().results)").run(0).start(1)
    output = lab.output(1)
    box = output.locator(".jp-Stdin-input")

    def answer(prompt: str, text: str) -> None:
        expect(output.locator(".jp-Stdin-prompt").last).to_contain_text(prompt)
        expect(box.last).to_have_value("")  # not the box that was answered before, which stays for a moment
        expect(box).to_have_count(1)
        box.fill(text)
        box.press("Enter")

    for rank in range(2):
        answer(f"(rank {rank}) (Pdb)", f"p x * 2 + {rank + 100}")
        expect(output).to_contain_text(str(rank * 20 + rank + 100))
        answer(f"(rank {rank}) (Pdb)", "c")
    lab.until_ended(1)
    lab.run(2)
    expect(lab.output(2)).to_contain_text("{0: 1, 1: 11}")
