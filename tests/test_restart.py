"""A run outlives the server that started it, and the next server shows it."""

from gradio_client import Client
from serving import serve, wait_for

from playground.data import library
from playground.data.readers import RawRow
from playground.data.report import examine
from playground.runs import run as runs
from playground.tabs import stage


def test_a_run_goes_on_while_the_server_is_killed_and_another_one_shows_it(home, tiny_model, embedded_model):
    rows = [{"prompt": f"What is {i} + {i}?", "completion": f"It is {2 * i}."} for i in range(40)]
    data = library.store(examine([RawRow(i, row, None) for i, row in enumerate(rows, 1)]), "sums", "a test")
    with serve(home) as (url, server):
        client = Client(url, verbose=False, analytics_enabled=False)
        client.predict(
            data=data.id, base=str(tiny_model), name="long", max_steps=300, num_train_epochs=20, api_name="/start_sft"
        )
        client.close()
        run = runs.find("long")
        wait_for(lambda: run.status().step > 3)
        server.kill()
        server.wait()
    step = run.status().step
    wait_for(lambda: run.status().step > step)
    with serve(home):
        picker, *_ = stage.tick("sft", None, None)  # what a page that opens now is shown
        assert picker.value == run.id
        assert run.status().active
        run.request_stop()
        wait_for(lambda: not run.status().active)
    assert run.status().state == "stopped"
    assert (run.adapter / "adapter_model.safetensors").exists()
