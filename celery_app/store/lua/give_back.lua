-- args: incarnation:str head:flag fields:pack
-- include: back
-- Returns messages to their queues: to the head what was not started, to the tail what a task rejected.
return give_back_fields(incarnation, fields, head)
