"""A discussion site: communities with threads in three orders and by flair, profiles, following and messages."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import ClassVar
from urllib.parse import urlencode

from fionalm.web.serving import Response, redirect
from fionalm.web.sites.local import LocalSite, Session, document
from fionalm.web.sites.names import FIRST, LAST, pick, split

N_USERS, N_THREADS, PER_PAGE = 1500, 5000, 32
COMMUNITIES = split(
    "astronomy, baking, birdwatching, boardgames, chess, cycling, fishkeeping, gardening, hiking, houseplants, "
    "knitting, languages, minerals, photography, pottery, sailing, typography, woodworking"
)
FLAIRS = ("Question", "Show and tell", "Guide", "Discussion", "Help wanted")
ORDERS = ("hot", "new", "top")
SUBJECTS = split(
    "my first attempt, a cheap tool, the long winter, what I learned, an old book, a small mistake, the best beginner"
    " kit, a strange find, my setup, a weekend project, the wrong size, a new technique, a broken part, three years "
    "of practice"
)
FORMS = (
    "Has anyone tried {}?",
    "Thoughts on {}",
    "{}: what would you change?",
    "How do I deal with {}?",
    "I finally finished {}",
    "Please tell me about {}",
)
REMARKS = (
    "I had the same problem last year, and patience was all it took.",
    "Nice work! Which materials did you use?",
    "I disagree, but I can see why you did it.",
    "Could you post a picture in daylight?",
    "This should be pinned for beginners.",
    "Try it with half of the pressure and twice the time.",
)
MESSAGES = (
    "Thank you for your guide",
    "Could you share the measurements?",
    "Are you coming to the meeting on Sunday?",
    "Your last post helped me a lot",
    "Do you still have the spare part?",
)
SCRIPT = """
const flair = document.querySelector("#flair-filter");
if (flair) flair.addEventListener("change", () => { flair.form.requestSubmit(); });
const text = document.querySelector("#message-text");
if (text) {
  const send = text.form.querySelector("button"), count = text.form.querySelector("output");
  const update = () => { count.value = `${text.value.length} of 500`; send.disabled = !text.value.trim(); };
  text.addEventListener("input", update);
  update();
}
"""


@dataclass(frozen=True)
class Thread:
    """One thread; `age` in hours."""

    number: int
    community: str
    title: str
    author: str
    flair: str
    votes: int
    age: int
    remarks: tuple[tuple[str, str], ...]


class SocialMediaSite(LocalSite):
    """Reached values: the list last seen (community, order, flair), the thread open, who is followed, what was sent."""

    name: ClassVar[str] = "social-media"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        generator = random.Random(f"threads {seed}")
        self.users = [f"{pick(FIRST, generator)}_{pick(LAST, generator)}{number}" for number in range(N_USERS)]
        self._known = frozenset(self.users)
        # No two threads of a community are equally old, nor have equal votes: every order is one order.
        ages, votes = generator.sample(range(1, 50_000), N_THREADS), generator.sample(range(1, 90_000), N_THREADS)
        self.threads = [self._thread(number, ages[number], votes[number], generator) for number in range(N_THREADS)]

    def make_task(self, generator: random.Random) -> tuple[str, dict[str, str]]:
        """Return one of three kinds of task: open a thread, follow an author, or send a message."""
        kind = generator.choice(("open", "open", "follow", "message"))
        if kind == "message":
            user, text = pick(self.users, generator), pick(MESSAGES, generator)
            return f'Send the message "{text}" to {user}.', {"recipient": user, "message": text}
        community, order = pick(COMMUNITIES, generator), pick(ORDERS, generator)
        flair = pick(FLAIRS, generator) if generator.random() < 0.5 else ""
        place = generator.randint(1, 6)
        thread = self.list_threads(community, order, flair)[place - 1]
        where = f"the {place}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(place, 'th') } {order} thread in c/{community}"
        where += f' with the flair "{flair}"' if flair else ""
        seen = {"community": community, "order": order, **({"flair": flair} if flair else {})}
        if kind == "follow":
            return f"Follow the author of {where}.", {**seen, "following": thread.author}
        return f"Open {where}.", {**seen, "thread": str(thread.number)}

    def list_threads(self, community: str, order: str, flair: str = "") -> list[Thread]:
        """Return a community's threads: `hot` weighs votes against age, `new` is by age, `top` by votes."""
        found = [one for one in self.threads if one.community == community and flair in ("", one.flair)]
        keys = {
            "hot": lambda one: (-one.votes / (one.age + 2) ** 1.5, one.number),
            "new": lambda one: (one.age, one.number),
            "top": lambda one: (-one.votes, one.number),
        }
        return sorted(found, key=keys[order])

    def page(self, base: str, parts: Sequence[str], query: Mapping[str, str], session: Session) -> str | Response:
        """Return a list, a thread, a profile or the form for messages; see `LocalSite.page`."""
        match parts:
            case []:
                return self._start(base)
            case ["c", community] if community in COMMUNITIES:
                return self._list(base, community, query, session)
            case ["thread", number] if number.isdecimal() and int(number) < len(self.threads):
                session.reached["thread"] = number
                return self._open(base, self.threads[int(number)])
            case ["u", user] if user in self._known:
                return self._profile(base, user, session)
            case ["follow"] if query.get("user") in self._known:
                following = session.data.setdefault("following", set())
                following ^= {query["user"]}
                if query["user"] in following:
                    session.reached["following"] = query["user"]
                elif session.reached.get("following") == query["user"]:
                    del session.reached["following"]
                return redirect(f"{base}/u/{query['user']}")
            case ["message"]:
                return self._message(base, query, session)
        raise ValueError(f"no page at {'/'.join(parts)}: expected c/COMMUNITY, thread/NUMBER, u/NAME or message")

    def _start(self, base: str) -> str:
        items = "".join(f'<li><a href="{base}/c/{one}">c/{one}</a></li>' for one in COMMUNITIES)
        hot = sorted(self.threads, key=lambda one: -one.votes)[:PER_PAGE]
        cards = "".join(self._card(base, one) for one in hot)
        return self._document(base, "Threads", f"<h1>Communities</h1><ul>{items}</ul><h2>Most voted</h2>{cards}")

    def _list(self, base: str, community: str, query: Mapping[str, str], session: Session) -> str:
        order = query.get("order", "hot") if query.get("order", "hot") in ORDERS else "hot"
        flair = query.get("flair", "") if query.get("flair", "") in FLAIRS else ""
        kept = {
            name: session.reached[name] for name in ("following", "recipient", "message") if name in session.reached
        }
        session.reached = {**kept, "community": community, "order": order, **({"flair": flair} if flair else {})}
        found = self.list_threads(community, order, flair)
        number = int(query["page"]) if query.get("page", "").isdecimal() and 0 < int(query["page"]) < 1000 else 1
        cards = "".join(self._card(base, one) for one in found[PER_PAGE * (number - 1) : PER_PAGE * number])
        tabs = "".join(
            f'<a role="tab" href="{base}/c/{community}?{escape(urlencode({"order": one, "flair": flair}))}" '
            f'{self.style.marked(f"order-{one}")} aria-current="{str(one == order).lower()}">{one.title()}</a>'
            for one in ORDERS
        )
        options = "".join(
            f'<option value="{one}"{" selected" if one == flair else ""}>{one or "All flairs"}</option>'
            for one in ("", *FLAIRS)
        )
        form = (
            f'<form action="{base}/c/{community}"><input type="hidden" name="order" value="{order}">'
            f'<label>Flair <select id="flair-filter" name="flair">{options}</select></label>'
            f'<button type="submit">Filter</button></form>'
        )
        following = {"order": order, "flair": flair, "page": number + 1}
        more = f'<a rel="next" href="{base}/c/{community}?{escape(urlencode(following))}">Next page</a>'
        more = more if len(found) > PER_PAGE * number else ""
        body = f'<h1>c/{community}</h1><nav role="tablist">{tabs}</nav>{form}{cards}{more}'
        return self._document(base, f"c/{community}", body)

    def _open(self, base: str, thread: Thread) -> str:
        remarks = "".join(
            self.style.box("remark", f"<p>{escape(text)}</p>", self._user(base, user), tag="article")
            for user, text in thread.remarks
        )
        more = [one for one in self.list_threads(thread.community, "top", thread.flair) if one is not thread][:8]
        related = "".join(self._card(base, one) for one in more)
        back = f'<nav><a href="{base}/c/{thread.community}">c/{thread.community}</a></nav>'
        here = f"{back}<h1>{escape(thread.title)}</h1>{self._card(base, thread)}"
        body = f"{here}<h2>Remarks</h2>{remarks}<h2>More</h2>{related}"
        return self._document(base, thread.title, body)

    def _profile(self, base: str, user: str, session: Session) -> str:
        followed = user in session.data.get("following", ())
        follow = (
            f'<form action="{base}/follow" method="post"><input type="hidden" name="user" value="{user}">'
            f'<button type="submit" {self.style.marked("follow")} aria-pressed="{str(followed).lower()}">'
            f"{'Following' if followed else 'Follow'}</button></form>"
        )
        write = f'<a {self.style.marked("write")} href="{base}/message?to={user}">Send a message</a>'
        posts = "".join(self._card(base, one) for one in self.threads if one.author == user)
        return self._document(
            base, user, f"<h1>{user}</h1>{follow}{write}<h2>Threads</h2>{posts or '<p>None yet.</p>'}"
        )

    def _message(self, base: str, query: Mapping[str, str], session: Session) -> str:
        to, text = query.get("to", "").strip(), query.get("text", "").strip()
        note = ""
        if text and to in self._known and len(text) <= 500:
            session.reached |= {"recipient": to, "message": text}
            note = f'<p role="status">Your message to {to} was sent.</p>'
        elif text:
            note = f'<p role="alert">There is nobody called {escape(to)}, or the text is too long.</p>'
        form = (
            f'<form action="{base}/message" method="post">'
            f'<label>To <input name="to" value="{escape(to)}" required></label>'
            f'<label>Text <textarea id="message-text" name="text" rows="4" maxlength="500"></textarea></label>'
            f'<output></output><button type="submit" {self.style.marked("send")}>Send</button></form>'
        )
        return self._document(base, "Message", f"<h1>New message</h1>{note}{form}")

    def _card(self, base: str, thread: Thread) -> str:
        css = self.style
        return css.box(
            "thread",
            f'<p class="{css.css("votes")}" {css.marked(f"votes-{thread.number}")}>{thread.votes:,} votes</p>',
            f'<h3 class="{css.css("title")}"><a href="{base}/thread/{thread.number}">{escape(thread.title)}</a></h3>',
            f'<span class="{css.css("flair")}">{thread.flair}</span> ',
            self._user(base, thread.author),
            f' <time datetime="PT{thread.age}H">{thread.age} hours ago</time>, {len(thread.remarks)} remarks',
            tag="article",
        )

    def _user(self, base: str, user: str) -> str:
        return f'<a class="{self.style.css("user")}" href="{base}/u/{user}">{user}</a>'

    def _document(self, base: str, title: str, body: str) -> str:
        header = f'<header><nav><a href="{base}/">Communities</a><a href="{base}/message">Messages</a></nav></header>'
        return document(title, f"{header}<main>{body}</main>", SCRIPT)

    def _thread(self, number: int, age: int, votes: int, generator: random.Random) -> Thread:
        title = pick(FORMS, generator).format(pick(SUBJECTS, generator))
        remarks = tuple(
            (pick(self.users, generator), pick(REMARKS, generator)) for _ in range(generator.randint(0, 24))
        )
        return Thread(
            number,
            COMMUNITIES[number % len(COMMUNITIES)],
            title[:1].upper() + title[1:],
            pick(self.users, generator),
            pick(FLAIRS, generator),
            votes,
            age,
            remarks,
        )
