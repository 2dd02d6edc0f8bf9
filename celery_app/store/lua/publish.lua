-- args: queue_key:str message:str
-- include: queue
-- A message published by a client of our transport.
queue_push(queue_key, {message})
return 1
