"""The changes that `make mutants` makes to the engine: each takes one check or one write away."""

# ruff: noqa: E501  the texts are lines of scripts

from __future__ import annotations

from dataclasses import dataclass

LUA = "celery_app/store/lua"
Edit = tuple[str, str, str]  # file, text that is there once, what stands there instead


@dataclass(frozen=True)
class Mutation:
    """A broken engine."""

    name: str
    what: str
    edits: tuple[Edit, ...]
    harmless: str = ""  # why nothing need notice it


def _lua(name: str, what: str, script: str, old: str, new: str = "", harmless: str = "") -> Mutation:
    return Mutation(name, what, ((f"{LUA}/{script}.lua", old, new),), harmless)


_NO_CLAIM: Edit = (
    f"{LUA}/commit.lua",
    "  return redis.error_reply('FENCED instance ' .. id .. ' is no longer held by claim ' .. c.claim)\n",
    "",
)
_NO_LENGTH: Edit = (f"{LUA}/commit.lua", "if r[2] ~= execution or length ~= c.base then", "if false then")

MUTATIONS = (
    Mutation("commit-no-claim", "commit does not ask whose claim it is", (_NO_CLAIM,)),
    Mutation("commit-no-length", "commit does not ask how long the history is", (_NO_LENGTH,)),
    Mutation("commit-no-fence", "commit asks for neither", (_NO_CLAIM, _NO_LENGTH)),
    _lua("commit-eats", "commit takes one item too many from the inbox", "commit_steps",
         "'LTRIM', inbox .. id, commit.inbox, -1", "'LTRIM', inbox .. id, commit.inbox + 1, -1"),
    _lua("commit-not-ready", "commit does not make an instance with unread items ready again", "commit",
         "local ready_again = has_work(id, suspended)", "local ready_again = false"),
    _lua("claim-lapsed", "claim lets in who does not beat", "claim",
         "if not beat or tonumber(beat) <= now then", "if false then"),
    _lua("take-living-holder", "take ignores that another living worker holds the step", "take",
         "if lapses and tonumber(lapses) > 0 then return false end"),
    _lua("take-any-attempt", "take lets an attempt in that is not the current one", "take",
         "if not is_current(state, attempt) then return false end", "if not state then return false end"),
    _lua("take-condemned", "take lets a condemned worker in", "take",
         "if not score or tonumber(score) <= 0 then", "if false then"),
    _lua("complete-stale", "complete takes the failure of an older attempt", "complete",
         "if not success and string.match(value, '^%d+') ~= attempt then return 'STALE' end"),
    _lua("complete-twice", "complete leaves a single step open", "complete",
         "forget_step(key, seq)", "if gseq then forget_step(key, seq) end"),
    _lua("part-twice", "complete leaves the part of a group open, so that it counts twice", "complete",
         "forget_step(key, seq)", "if not gseq then forget_step(key, seq) end"),
    _lua("complete-old-run", "complete does not ask whether the run is still this one", "complete",
         "if record[2] ~= execution then return 'GONE' end"),
    _lua("window-lost", "the next window of a group is not asked for", "groups",
         "if wanted then redis.call('RPUSH', inbox .. id, 'E' .. gseq) end"),
    _lua("retry-not-parked", "the next attempt is put nowhere", "retry",
         "redis.call('ZADD', parked, string.format('%.0f', due), member)\n"),
    _lua("retry-stale", "retry takes the failure of an older attempt", "retry",
         "if current ~= attempt then return 'STALE' end"),
    _lua("promote-any", "promote does not ask whether the step waits for this retry", "promote",
         "if not is_current(state, attempt) or not string.find(state, '^%d+|p') then return false end",
         "if not state then return false end"),
    _lua("sweep-keeps-claims", "sweep forgets the claims of a dead orchestrator", "sweep",
         "if r[1] and string.match(r[1], '^(.*)%.%d+$') == incarnation then", "if false then"),
    _lua("sweep-not-ready", "sweep returns claims, and nobody can claim them", "sweep",
         "      redis.call('ZADD', ready, now_s, id)\n"),
    _lua("sweep-closing", "sweep drops the children of a parent that ended", "sweep",
         "if verb then close_one(verb, execution, id, rest) end"),
    _lua("flights-kept", "what a dead worker held is not given back", "sweep_flights",
         "give_back_fields(incarnation, fields, true, started, most)", "0"),
    _lua("silence-condemns", "leases that lapsed while Redis was away count as lapsed", "heard",
         "    prolong(last, function(score) return math.max(score, till) end)\n"),
    _lua("silence-for-ever", "every silence gives another lease, also to the dead", "heard",
         "local again = length > most and last < till", "local again = false"),
    _lua("silence-deadlines", "deadlines that passed while Redis was away are judged at once", "heard",
         "return now < till and math.min(now, from - 1) or now", "return now"),
    _lua("adopt-drops", "a worker that reconnects drops what it had not started", "adopt",
         "give_back_fields(old, rest, true, dead and started_by(old, rest), most)"),
    _lua("adopt-keeps-old", "the old name of a worker that reconnects may still take", "adopt",
         "  redis.call('ZREM', beats, old)\n"),
    _lua("timer-twice", "a timer that fired stays in the list and open", "fire_timers",
         "    redis.call('ZREM', timers, member)\n    redis.call('HDEL', open .. execution, seq)\n    make_ready",
         "    make_ready"),
    _lua("timer-of-old-run", "a timer of an earlier run fires", "fire_timers",
         "elseif r[2] == execution and redis.call('HGET', open .. execution, seq) == 't' then", "elseif r[1] then"),
    Mutation("terminate-no-fence", "terminate leaves the claim, and commit does not ask for the length",
             ((f"{LUA}/ends.lua", "'status', 'Terminated', 'stage', '0', 'claim', '',", "'status', 'Terminated', 'stage', '0',"),
              _NO_LENGTH)),
    _lua("end-leaves-open", "the open steps of a run that ended stay", "ends",
         "  close_open(id, execution, reason)\n  redis.call('PUBLISH'", "  redis.call('PUBLISH'"),
    _lua("next-run-drops", "continue-as-new drops the events that wait", "commit_steps",
         "      redis.call('RPUSH', inbox .. id, item)\n"),
    _lua("next-run-keeps-all", "continue-as-new keeps the outcomes of the old run", "commit_steps",
         "if string.find(item, '^{\"k\":10[,}]') then", "if string.sub(item, 1, 1) == '{' then"),
    _lua("event-twice", "an event that is sent again counts again", "raising",
         "  if dedup_key ~= '' and redis.call('SISMEMBER', dedup .. instance, dedup_key) == 1 then return 0 end\n"),
    _lua("start-twice", "a start that is sent again starts again", "start", "  if known then", "  if false then"),
    _lua("parent-not-told", "a child that ends does not tell its parent", "ends",
         "  redis.call('RPUSH', inbox .. parent, text)\n"),
    _lua("suspended-runs", "what is suspended goes on", "claim", "    if not r[5] then\n", "    if true then\n"),
    _lua("resume-sleeps", "resume does not make ready", "controlling",
         "  if has_work(id, false) then make_ready_now(id, r[1], r[4]) end\n"),
    Mutation("cache-after-fence", "an orchestrator keeps what it computed in vain",
             (("celery_app/orchestrator/worker.py",
               "self._turner.let_go(answer)\n            else:", "self._committed(answer, CommitReply(False, [], False)) if isinstance(answer, Done) else None\n            else:"),)),
    Mutation("ack-first", "a worker that reconnects forgets that it still runs something",
             (("celery_app/transport/inflight.py",
               "if held.incarnation == old}\n", "if held.incarnation == old and not held.ours}\n"),)),
    Mutation("abandon-keeps", "a fenced worker still starts what it had taken",
             (("celery_app/transport/inflight.py",
               "deque(held for held in self.buffer if held.incarnation != name)", "deque(self.buffer)"),)),
)  # fmt: skip
