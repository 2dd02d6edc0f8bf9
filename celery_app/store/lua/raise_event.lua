-- An event from a client.
-- include: raising
return raise()
