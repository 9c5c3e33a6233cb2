"""A recommendation service in one file: `pip install 'reg4rec[service]'`, then

    python examples/service.py runs/shop/recommender --port 8000
    curl localhost:8000/recommend -d '{"history": ["B01", "B07"], "k": 5}'

or as an image (`Dockerfile`): docker build -t reg4rec .
    docker run -p 8000:8000 -v "$PWD/runs/shop/recommender:/model:ro" reg4rec

| request | body | answer |
|---|---|---|
| GET /health | | items, retriever, where the model comes from, users served |
| POST /recommend | history, k, filter_seen, exclude, candidates, reasons | items: id, score and, if asked, a sentence |
| POST /items | a list of new items: item_id, title ... | how many were added |
| DELETE /items | a list of item ids | how many were removed |
| POST /model | folder of another recommender | the same as /health; no request fails while it is exchanged |

Requests that arrive while others are computed wait and are then answered as one batch. The other model does not know
items that were added since it was saved. SIGTERM lets open requests finish.
"""

import argparse
import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import reg4rec

MOST_USERS = 512
"""Requests that are answered together."""
LARGEST_K = 1000


class Wish(NamedTuple):
    """One user's request."""

    history: list[Any]
    k: int = 10
    filter_seen: bool = True
    exclude: list[Any] = []  # noqa: RUF012 (never written to)
    candidates: list[Any] | None = None
    reasons: bool = False

    @classmethod
    def read(cls, body: Any) -> "Wish":
        if not isinstance(body, dict) or "history" not in body or set(body) - set(cls._fields):
            found = list(body) if isinstance(body, dict) else type(body).__name__
            wanted = f"an object with history, and any of {', '.join(cls._fields[1:])}"
            raise reg4rec.InputError(f"send {wanted}; found {found}")
        wish = cls(**body)
        lists = [wish.history, wish.exclude, [] if wish.candidates is None else wish.candidates]
        if not all(isinstance(one, list) for one in lists):
            raise reg4rec.InputError("history, exclude and candidates must be lists")
        if type(wish.k) is not int or not 1 <= wish.k <= LARGEST_K:
            raise reg4rec.InputError(f"k must be a whole number from 1 to {LARGEST_K}, found {wish.k!r}")
        if type(wish.filter_seen) is not bool or type(wish.reasons) is not bool:
            raise reg4rec.InputError("filter_seen and reasons must be true or false")
        return wish

    @property
    def together(self) -> tuple[bool, ...]:
        """Wishes that agree in this can share one call of `recommend`."""
        return self.filter_seen, self.reasons, self.candidates is None


class Service:
    """The recommender, and one thread that does all work on it, a batch of requests at a time."""

    def __init__(self, folder: str):
        self.rec = reg4rec.Recommender.from_pretrained(folder)
        self.thread = ThreadPoolExecutor(1)
        self.exchanging = asyncio.Lock()
        self.waiting: asyncio.Queue[tuple[Wish, asyncio.Future[Any]]] = asyncio.Queue()
        self.served = 0

    async def work(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.thread, function, *args)

    async def answer(self) -> None:
        """Answer what is waiting, together, until the service ends."""
        while True:
            asked = [await self.waiting.get()]
            while not self.waiting.empty() and len(asked) < MOST_USERS:
                asked.append(self.waiting.get_nowait())
            for kind in {wish.together for wish, _ in asked}:
                some = [(wish, future) for wish, future in asked if wish.together == kind]
                answers = await self.work(self.recommend_now, [wish for wish, _ in some])
                for (_, future), answer in zip(some, answers, strict=True):
                    if future.cancelled():
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
            self.served += len(asked)

    def recommend_now(self, wishes: list[Wish]) -> list[Any]:
        """In the thread, so that the recommender is the one of that moment."""
        return recommend_together(self.rec, wishes)

    async def recommend(self, request: Request) -> JSONResponse:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await self.waiting.put((Wish.read(await request.json()), future))
        return JSONResponse({"items": await future})

    async def health(self, request: Request) -> JSONResponse:
        facts = {"items": len(self.rec.items), "retriever": self.rec.retriever, "users_served": self.served}
        return JSONResponse(facts | {"card": self.rec.card})

    async def add(self, request: Request) -> JSONResponse:
        items = await request.json()
        if not isinstance(items, list) or not all(isinstance(item, dict) and "item_id" in item for item in items):
            raise reg4rec.InputError("send a list of objects, each with item_id")
        return JSONResponse({"added": await self.work(lambda: self.rec.add_items(pa.Table.from_pylist(items)))})

    async def remove(self, request: Request) -> JSONResponse:
        ids = await request.json()
        if not isinstance(ids, list):
            raise reg4rec.InputError("send a list of item ids")
        return JSONResponse({"removed": await self.work(lambda: self.rec.remove_items(ids))})

    async def exchange(self, request: Request) -> JSONResponse:
        body = await request.json()
        if not isinstance(body, dict) or not isinstance(body.get("folder"), str):
            raise reg4rec.InputError("send an object with folder, the folder of a recommender")
        async with self.exchanging:
            loaded = await asyncio.to_thread(reg4rec.Recommender.from_pretrained, body["folder"])
            await self.work(setattr, self, "rec", loaded)
        return await self.health(request)

    def app(self) -> Starlette:
        @contextlib.asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            task = asyncio.create_task(self.answer())
            yield
            task.cancel()

        routes = [
            Route("/health", self.health),
            Route("/recommend", self.recommend, methods=["POST"]),
            Route("/items", self.add, methods=["POST"]),
            Route("/items", self.remove, methods=["DELETE"]),
            Route("/model", self.exchange, methods=["POST"]),
        ]
        refused = {reg4rec.InputError: refuse, json.JSONDecodeError: refuse, pa.ArrowException: refuse}
        return Starlette(routes=routes, lifespan=lifespan, exception_handlers=refused)


def recommend_together(rec: reg4rec.Recommender, wishes: list[Wish]) -> list[Any]:
    """An answer, or an error, for each of the wishes; a mistake in one of them does not spoil the others."""
    try:
        return list(answers_to(rec, wishes))
    except Exception as error:
        return [error] if len(wishes) == 1 else [recommend_together(rec, [wish])[0] for wish in wishes]


def answers_to(rec: reg4rec.Recommender, wishes: list[Wish]) -> list[list[dict[str, Any]]]:
    """Answers for wishes that agree in `together`; a shorter list is the head of a longer one."""
    first, users = wishes[0], range(len(wishes))
    if first.reasons:
        return [explained(rec, wish) for wish in wishes]
    table = rec.recommend(
        {user: wish.history for user, wish in enumerate(wishes)},
        k=max(wish.k for wish in wishes),
        filter_seen=first.filter_seen,
        exclude={user: wish.exclude for user, wish in enumerate(wishes) if wish.exclude} or None,
        candidates=None if first.candidates is None else {user: wishes[user].candidates for user in users},
    )
    answers: list[list[dict[str, Any]]] = [[] for _ in wishes]
    for row in table.to_pylist():
        user, rank = row.pop("user_id"), row.pop("rank")
        if rank <= wishes[user].k:
            answers[user].append(row)
    return answers


def explained(rec: reg4rec.Recommender, wish: Wish) -> list[dict[str, Any]]:
    """The answer to a wish with reasons; `sentence` is what a shop shows."""
    own = wish._asdict()
    filters = {name: own[name] for name in ("filter_seen", "exclude", "candidates")}
    found = reg4rec.explain(rec, wish.history, wish.k, **filters, unknown="ignore", paths=False)
    names = ("item_id", "title", "score", "sentence", "raised_by")
    return [{name: entry[name] for name in names} for entry in found.as_dict()["recommended"]]


async def refuse(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": f"{error}"}, status_code=400)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", help="a recommender, as `reg4rec fit` and `save_pretrained` write it")
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=8000)
    chosen = options.parse_args()
    uvicorn.run(Service(chosen.folder).app(), host=chosen.host, port=chosen.port, log_level="warning")
